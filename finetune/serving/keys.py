"""API keys: 256 random bits that are shown once and stored as a hash, with scopes, a rate and an expiry date."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from filelock import FileLock
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from finetune.errors import UserError
from finetune.files import new_file

Scope = Literal["transcribe", "live", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_LOGGER = logging.getLogger(__name__)
_PREFIX = "ft-"
# A changed file is noticed after this time.
_LOOK_SECONDS = 1.0

# A day that was written by hand, as `expires: 2027-12-31`, begins in UTC, as that of --expires.
_Moment = Annotated[datetime, AfterValidator(lambda moment: moment if moment.tzinfo else moment.replace(tzinfo=UTC))]


class Key(BaseModel):
    """A key as it is stored: whose it is, the SHA-256 of its text, and what it allows.

    A hash without salt and stretching is enough for 256 random bits, which can't be guessed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...]
    requests_per_minute: float | None = Field(default=None, gt=0)
    created: _Moment
    expires: _Moment | None = None

    @property
    def expired(self) -> bool:
        """Whether the key is not valid any more."""
        return self.expires is not None and datetime.now(UTC) >= self.expires


ANYONE = Key(name="anyone", sha256="0" * 64, scopes=SCOPES, created=datetime.fromtimestamp(0, UTC))
"""Who sends requests to a service without keys."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key] = []


def read_keys(file: Path) -> list[Key]:
    """Read a file of keys; raises UserError if it can't be read or is damaged."""
    try:
        return _File.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {}).keys
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a file of keys: expected what `finetune serve keys add` writes.") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {place}: {first['msg']}.") from error


def add_key(
    file: Path,
    name: str,
    scopes: Collection[str],
    requests_per_minute: float | None = None,
    expires: datetime | None = None,
) -> str:
    """Add a key to a file, which only its owner can read, and return its text, which is stored nowhere.

    Raises UserError for a name that is there already or has other characters than letters, digits, `.`, `_` and `-`.
    """
    text = _PREFIX + secrets.token_urlsafe(32)
    try:
        key = Key(
            name=name,
            sha256=_hash(text),
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            requests_per_minute=requests_per_minute,
            created=datetime.now(UTC).replace(microsecond=0),
            expires=expires,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    with _lock(file):
        keys = read_keys(file) if file.exists() else []
        if any(other.name == name for other in keys):
            raise UserError(f"{file} has a key for {name} already: revoke it first, or choose another name.")
        _write(file, [*keys, key])
    return text


def revoke_key(file: Path, name: str) -> None:
    """Remove a key from a file; raises UserError if it is not there."""
    with _lock(file):
        keys = read_keys(file)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            raise UserError(f"{file} has no key for {name}; it has {', '.join(key.name for key in keys) or 'none'}.")
        _write(file, left)


class KeyRing:
    """The keys of a service; a file that changes is read again, and one that is damaged changes nothing."""

    def __init__(self, file: Path | None) -> None:
        """Read the keys; without a file everyone may do everything. Raises UserError as `read_keys` does."""
        self._file = file
        self._keys = read_keys(file) if file else []
        self._state, self._looked = self._stat(), time.monotonic()
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def find(self, text: str | None) -> Key | None:
        """The key with a text; None if there is none or it has expired."""
        if self._file is None:
            return ANYONE
        self._refresh()
        hashed = _hash(text or "")
        # All are compared, in constant time, so that the time tells nothing about any.
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, hashed)]
        return next((key for key in found if not key.expired), None)

    def wait_seconds(self, key: Key) -> float:
        """Count a request; above 0 it is how long the key must wait, as its rate is exceeded."""
        if key.requests_per_minute is None:
            return 0.0
        with self._lock:
            bucket = self._buckets.setdefault(key.name, _Bucket())
            return bucket.take(key.requests_per_minute)

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        state = self._stat()
        if state != self._state:
            self._state = state
            try:
                self._keys = read_keys(self._file)
            except UserError as error:
                _LOGGER.warning(f"{error} The keys stay as they were.")

    def _stat(self) -> tuple[int, int] | None:
        if self._file is None or not self._file.exists():
            return None
        state = self._file.stat()
        return state.st_mtime_ns, state.st_size


@dataclass
class _Bucket:
    """A token bucket that holds the requests of ten seconds, but at least one."""

    tokens: float = float("inf")
    filled: float = 0.0

    def take(self, per_minute: float) -> float:
        now, rate = time.monotonic(), per_minute / 60
        self.tokens = min(max(1.0, rate * 10), self.tokens + (now - self.filled) * rate)
        self.filled = now
        if self.tokens < 1:
            return (1 - self.tokens) / rate
        self.tokens -= 1
        return 0.0


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lock(file: Path) -> FileLock:
    return FileLock(file.with_name(f".{file.name}.lock"))


def _write(file: Path, keys: list[Key]) -> None:
    values = _File(keys=keys).model_dump(mode="json")
    with new_file(file) as partial:
        partial.chmod(0o600)
        partial.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
