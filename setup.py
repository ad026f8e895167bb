"""Builds the C++ kernels (src/tsslbp/csrc). Everything else about the package is in pyproject.toml.

They are optional: without torch or a C++ compiler at build time the package installs all the same, and its reference
implementation does the work. ``pip install --no-build-isolation`` lets the build see the torch that is installed.
"""

import importlib.util
import logging
import sys
from pathlib import Path

from setuptools import Extension, setup


def extensions() -> list[Extension]:
    """The one extension, or none where torch is missing."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        logging.warning("torch is not visible to the build, so there will be no C++ kernels; install with --no-build-isolation")
        return []
    torch = Path(spec.origin).parent
    return [
        Extension(
            "tsslbp.kernels._cpu",  # loaded by path, not imported
            ["src/tsslbp/csrc/ops.cpp"],
            depends=sorted(map(str, Path("src/tsslbp/csrc").glob("*.h"))),
            include_dirs=[str(torch / "include")],
            library_dirs=[str(torch / "lib")],
            libraries=["torch_cpu"],
            define_macros=[("TORCH_TARGET_VERSION", "0x020a000000000000ULL")],  # the stable ABI of torch 2.10 and all later
            # No -ffast-math: NaN must survive. No contraction: every instruction set and the reference round alike.
            extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-g0"],
            extra_link_args=["-Wl,-s"] if sys.platform == "linux" else [],
            language="c++",
            py_limited_api=True,
            optional=True,
        )
    ]


# The extension does not use Python's API at all: one wheel serves every Python from 3.11 on.
setup(ext_modules=extensions(), options={"bdist_wheel": {"py_limited_api": "cp311"}})
