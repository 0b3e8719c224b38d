"""Encryption at rest: texts and audio are sealed with AES-256-GCM under data keys, which a master key wraps.

A new master key wraps the data keys again, and new data are sealed with a new data key (envelope encryption, as key
services do it). Who needs the old data under a new data key copies the store into a new one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune.errors import UserError

KEY_VARIABLE = "FINETUNE_FEEDBACK_KEY"
_MAGIC = b"FTS1"
_NONCE_BYTES = 12
_DAMAGED = "The store has damaged data, or data of another store: {} can't be decrypted."


def new_master_key() -> str:
    """256 random bits in base64, for a key file or the variable FINETUNE_FEEDBACK_KEY."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def read_master_key(file: Path | None) -> bytes | None:
    """The master key from a file, or else from FINETUNE_FEEDBACK_KEY; None without both. Raises UserError."""
    if file is not None:
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The key file {file} can't be read: {error}.") from error
    else:
        text = os.environ.get(KEY_VARIABLE, "")
    if not text.strip():
        return None
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        place = file or KEY_VARIABLE
        raise UserError(
            f"{place} has no key: expected 32 bytes in base64, as `finetune feedback new-key FILE` writes them."
        )
    return key


class StaleKey(UserError):
    """The master key of a store was changed, and this process has the one before."""


class Seal:
    """Seals and opens with data keys; without any, all passes as it is."""

    def __init__(self, keys: Mapping[int, bytes], read_keys: Callable[[], Mapping[int, bytes]] | None = None) -> None:
        """Take the data keys by number; the highest one seals.

        `read_keys` is called for what was sealed with a key that came since; it may raise UserError.
        """
        self._read_keys = read_keys
        self.take(keys)

    def take(self, keys: Mapping[int, bytes]) -> None:
        """Take other data keys, among which are all those before."""
        self._ciphers = {number: _cipher(key) for number, key in keys.items()}
        # The first key stays for good, so that the hash of a speaker does.
        self._hash_key = keys[min(keys)] if keys else None
        self._newest = max(keys, default=None)

    @property
    def is_active(self) -> bool:
        """Whether data are encrypted."""
        return self._newest is not None

    @property
    def newest(self) -> int | None:
        """The number of the key that seals; None without encryption."""
        return self._newest

    def seal_bytes(self, content: bytes, purpose: str) -> bytes:
        """Encrypt bytes; they open for the same purpose only."""
        newest = self._newest
        if newest is None:
            return content
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[newest].encrypt(nonce, content, purpose.encode())
        return _MAGIC + newest.to_bytes(4, "big") + nonce + sealed

    def open_bytes(self, content: bytes, purpose: str) -> bytes:
        """Decrypt bytes; raises UserError for other bytes or another purpose, and StaleKey."""
        from cryptography.exceptions import InvalidTag

        if self._newest is None:
            return content
        start = len(_MAGIC) + 4
        number = int.from_bytes(content[len(_MAGIC) : start], "big")
        if content[: len(_MAGIC)] == _MAGIC and number not in self._ciphers and self._read_keys is not None:
            self.take(self._read_keys())
        cipher = self._ciphers.get(number)
        if content[: len(_MAGIC)] != _MAGIC or cipher is None:
            raise UserError(_DAMAGED.format(purpose))
        try:
            return cipher.decrypt(
                content[start : start + _NONCE_BYTES], content[start + _NONCE_BYTES :], purpose.encode()
            )
        except InvalidTag as error:
            raise UserError(_DAMAGED.format(purpose)) from error

    def seal_text(self, text: str, purpose: str) -> str:
        """Encrypt a text, to base64."""
        if self._newest is None:
            return text
        return base64.b64encode(self.seal_bytes(text.encode(), purpose)).decode()

    def open_text(self, text: str, purpose: str) -> str:
        """Decrypt a text; raises UserError as `open_bytes` does."""
        if self._newest is None:
            return text
        try:
            content = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise UserError(_DAMAGED.format(purpose)) from error
        return self.open_bytes(content, purpose).decode()

    def hash_name(self, name: str) -> str:
        """A hash that finds a name again; with a key that nobody else can compute."""
        if self._hash_key is None:
            return hashlib.sha256(name.encode()).hexdigest()
        return hmac.digest(self._hash_key, name.encode(), "sha256").hex()


def wrap(master: bytes, key: bytes) -> bytes:
    """Encrypt a data key with the master key."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + bytes(_cipher(master).encrypt(nonce, key, b"data key"))


def unwrap(master: bytes, wrapped: bytes) -> bytes:
    """Decrypt a data key; raises UserError for a wrong master key."""
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(_cipher(master).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], b"data key"))
    except InvalidTag as error:
        raise UserError(
            f"The key does not open this store: give the key file it was made with, or {KEY_VARIABLE}."
        ) from error


def _cipher(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)
