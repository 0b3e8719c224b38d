"""Functions that Numba compiles: the one place that says how."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """The function as machine code, made at its first call, which does not hold Python's global lock.

    The code is kept beside the module, where that folder is read-only in the user's cache folder, and where neither
    can be written nowhere: then each process compiles anew, in seconds.

    Numba compiles a function anew when the file it stands in changes, and doesn't look at the functions it calls:
    whoever changes a compiled function that another file's call must clear `__pycache__`.
    """
    dispatcher: Any = numba.njit(nogil=True)(function)
    with suppress(RuntimeError, OSError):  # No folder to keep it in.
        dispatcher._cache = _Cache(function)  # As the dispatcher's `enable_caching` does (Numba 0.62 to 0.67).
    return cast(Function, dispatcher)


class _Cache(FunctionCache):
    """Numba's cache, in which files that are damaged, or that can't be written, cost time and nothing else."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # A pickle that is cut off raises whatever it likes.
            with suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled code if that can be."""
        with suppress(OSError):
            super().save_overload(sig, data)
