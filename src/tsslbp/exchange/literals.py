"""Numbers and names as they are written in C."""

import string
from collections.abc import Iterable

import numpy as np

from tsslbp.exchange.chain import Array
from tsslbp.utils.errors import UserError


def numbers(x: Array, a_line: int = 20) -> str:
    """An array in C, without its braces. Raises UserError for a number that is not finite."""
    flat = x.flatten()
    if not np.isfinite(flat).all():
        raise UserError("the network has a number beyond 3.4e38, the largest float32; C needs smaller ones")
    texts = [f"{text}f" for text in map(str, flat)] if flat.dtype == np.float32 else list(map(str, flat.tolist()))
    return ",\n".join(", ".join(texts[i : i + a_line]) for i in range(0, len(texts), a_line))


def floats(values: Iterable[float]) -> str:
    """Numbers as float, without braces."""
    with np.errstate(over="ignore"):  # numbers() says what is wrong
        return numbers(np.array(list(values), np.float32))


def pair(sizes: Iterable[int]) -> str:
    """Rows and columns."""
    rows, columns = sizes
    return f"{{{rows}, {columns}}}"


def escaped(name: str) -> str:
    """A name for a string in C, in UTF-8. Without ``_``, by which users rename what begins with ``network_``."""
    plain = string.ascii_letters + string.digits + " -.,"
    return "".join(chr(byte) if chr(byte) in plain else f"\\{byte:03o}" for byte in name.encode())
