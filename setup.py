"""Builds the C++ kernels (src/tsslbp/kernels/csrc). Everything else about the package is in pyproject.toml.

The build needs torch, whose headers it includes; ``pip install`` brings it. Without a C++ compiler the package installs all
the same, says so, and computes with its slower reference implementation: ``tsslbp doctor`` shows which one is there.
"""

import hashlib
import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CCompilerError, CompileError, ExecError, LinkError, PlatformError

# No -ffast-math: NaN must survive. No contraction: every instruction set and the reference round alike.
ROUNDING = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")  # free-threaded Python has no stable ABI
CSRC = Path("src/tsslbp/kernels/csrc")
SOURCES, HEADERS = (sorted(CSRC.glob(f"*.{ending}")) for ending in ("cpp", "h"))
SOURCE = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES + HEADERS))).hexdigest()  # as in kernels/cpp.py
DEBUG = bool(os.environ.get("TSSLBP_DEBUG"))  # keep what a profiler needs (benchmarks/inference_profile.py)


def extension() -> Extension:
    """The kernels. They are optional: the package installs without them where they cannot be built."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("tsslbp: the build needs torch>=2.10; install it first, or leave out --no-build-isolation")
    torch = Path(spec.origin).parent
    return Extension(
        "tsslbp.kernels._cpu",  # loaded by path, not imported
        [*map(str, SOURCES)],
        depends=[*map(str, HEADERS)],
        include_dirs=[str(torch / "include")],
        library_dirs=[str(torch / "lib")],
        libraries=["torch_cpu"],
        define_macros=[
            ("TORCH_TARGET_VERSION", "0x020a000000000000ULL"),  # the stable ABI of torch 2.10 and all later
            ("TSSLBP_SOURCE", f'"{SOURCE}"'),
        ],
        extra_compile_args=["-std=c++17", "-O3", "-g1" if DEBUG else "-g0", "-fvisibility=hidden", *ROUNDING],
        extra_link_args=["-Wl,-s"] if sys.platform == "linux" and not DEBUG else [],
        language="c++",
        py_limited_api=LIMITED,
        optional=True,
    )


def forget_other_source(library: Path) -> None:
    """Delete a library that was built from other source than what lies here."""
    if library.exists() and SOURCE.encode() not in library.read_bytes():
        library.unlink()


class BuildKernels(build_ext):
    """Compiles several files at a time, and says what it means when they cannot be built, before setuptools goes on without."""

    def run(self) -> None:
        if self.inplace:  # else a library that cannot be built again would be loaded as it was
            for ext in self.extensions:
                forget_other_source(Path(self.get_ext_fullpath(ext.name)))
        super().run()

    def copy_extensions_to_source(self) -> None:
        self.force = True  # else a damaged library in place would stay if it is newer
        super().copy_extensions_to_source()

    def build_extension(self, ext: Extension) -> None:
        forget_other_source(Path(self.get_ext_fullpath(ext.name)))  # it would count as built if no file is newer
        compile_files = self.compiler.compile

        def compile_side_by_side(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # each takes 400 MB; more would wait for the largest
                return [made for one in pool.map(lambda source: compile_files([source], **options), sources) for made in one]

        self.compiler.compile = compile_side_by_side
        try:
            super().build_extension(ext)
        except (CCompilerError, CompileError, ExecError, LinkError, PlatformError):
            logging.warning(
                "tsslbp: the C++ kernels could not be built, so the slower reference implementation will be used; "
                "install a C++ compiler such as GCC 11 or newer (CXX names it), then install tsslbp again"
            )
            raise


class BuildModules(build_py):
    """Leaves no module of an older version in the folder that pip builds in and keeps."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib, "tsslbp"), ignore_errors=True)
        super().run()


# The kernels do not use Python's API at all: one wheel serves every Python from 3.11 on.
setup(
    ext_modules=[extension()],
    cmdclass={"build_py": BuildModules, "build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
