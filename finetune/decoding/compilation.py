"""Functions that Numba compiles to machine code, and where the machine code is cached."""

import functools
import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """The function as machine code, compiled at its first call; it releases Python's global interpreter lock.

    The machine code is cached in the module's `__pycache__`, in the user's cache folder where that is read-only, and
    nowhere where neither can be written: then each process compiles again, which takes seconds. The names of a module's
    compiled functions must be unique.
    """
    dispatcher: Any = numba.njit(nogil=True)(function)
    with suppress(RuntimeError, OSError):  # No cache folder can be written.
        dispatcher._cache = _Cache(function)  # As the dispatcher's `enable_caching` does (Numba 0.62 to 0.68).
    return cast(Function, dispatcher)


@functools.cache
def _hash_sources() -> str:
    """A hash of all modules in this folder, since compiled functions call functions of other modules."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


class _CacheImpl(CompileResultCacheImpl):
    """Names files by the function without its line: an edited function overwrites its older machine code."""

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        line = self.locator.get_disambiguator()
        return str(super().get_filename_base(fullname, abiflags).replace(f"-{line}.py", ".py"))


class _Cache(FunctionCache):
    """Numba's cache, which is stale after an edit of any module here; unusable cache files cost time and nothing else.

    Numba's own cache compares the function's own file only. A stale entry is overwritten by the next one.
    """

    _impl_class = _CacheImpl

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _hash_sources()
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # A truncated pickle raises exceptions of any type.
            with suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Cache the compiled code if the folder can be written."""
        with suppress(OSError):
            super().save_overload(sig, data)
