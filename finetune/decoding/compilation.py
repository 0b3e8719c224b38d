"""Functions that Numba compiles: the one place that says how."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """The function as machine code, made at its first call, which does not hold Python's global lock.

    The code is kept beside the module, where that folder is read-only in the user's cache folder, and where neither
    can be written nowhere: then each process compiles anew, in seconds.

    Numba compiles a function anew when the file it stands in changes, and doesn't look at the functions it calls:
    whoever changes a compiled function that another file's call must clear `__pycache__`.
    """
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # No folder to keep it in.
        return cast(Function, numba.njit(nogil=True)(function))
