"""Reading what clients send, with limits while it arrives: its size, its pace, and the length of its audio."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from finetune.audio.waveforms import AudioError
from finetune.serving.problems import Problem

# After the grace time an upload must have this pace: less than the slowest speech codec over a phone.
_GRACE_SECONDS, _MIN_BYTES_PER_SECOND = 20.0, 500.0
_IDLE_SECONDS = 20.0
# Of a form: text fields and their size in bytes, as OpenAI's client sends them.
_MAX_FIELDS, _MAX_FIELD_BYTES = 200, 65536
# A form is this much longer than its file at most.
_FORM_BYTES = 2**20
# The rest of a refused body is not read.
_CLOSE = {"Connection": "close"}
# Larger bodies are kept in a temporary file without a name.
_MEMORY_BYTES = 2**20


@dataclass(frozen=True)
class AudioLimits:
    """The largest file in bytes, and the longest audio in seconds."""

    max_bytes: int
    max_seconds: float

    def guard(self, cancelled: Callable[[], bool]) -> Callable[[float], None]:
        """A function to be called with the seconds that were decoded so far.

        It raises AudioError for too many, whatever the file's header says.
        """

        def check(seconds: float) -> None:
            if seconds > self.max_seconds:
                raise AudioTooLong(f"longer than {self.max_seconds:g} s, the limit of this service")
            if cancelled():
                raise AudioError("the client has gone")

        return check


class AudioTooLong(AudioError):
    """Audio over the limit of the service."""


@asynccontextmanager
async def read_form(request: Request, limits: AudioLimits) -> AsyncIterator[FormData]:
    """The fields of a multipart form with at most one file.

    Raises Problem: 413 for a body that is too large, as soon as that is known, 408 for one that comes too slowly, 415
    for another kind of body, and 400 for a damaged one.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Problem(415, "Expected a form: Content-Type multipart/form-data with a file.", "unsupported_media_type")
    body = _limit(request, limits.max_bytes, _FORM_BYTES)
    parser = MultiPartParser(request.headers, body, max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, f"The form can't be read: {error.message.rstrip('.')}.", "invalid_form") from error
    except (KeyError, ValueError, UnicodeDecodeError) as error:
        raise Problem(400, "The form can't be read: it is damaged.", "invalid_form") from error
    try:
        yield form
    finally:
        await form.close()


def take_file(form: FormData, limits: AudioLimits) -> BinaryIO:
    """The open file of a form; raises Problem without one, and for one that is too large."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise Problem(400, "The form has no file: expected the audio in the field `file`.", "missing_file", "file")
    if (file.size or 0) > limits.max_bytes:
        raise _too_large(limits.max_bytes)
    return file.file


@asynccontextmanager
async def read_body(request: Request, limits: AudioLimits) -> AsyncIterator[BinaryIO]:
    """The bytes of a body, in memory or in a temporary file; raises Problem as `read_form` does."""
    with tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES) as file:
        async for block in _limit(request, limits.max_bytes, 0):
            file.write(block)
        file.seek(0)
        yield file  # type: ignore[misc]  # It has the methods of a BinaryIO.


async def _limit(request: Request, max_bytes: int, extra_bytes: int) -> AsyncGenerator[bytes, None]:
    """The blocks of a body as long as it keeps to the limits."""
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > max_bytes + extra_bytes:
        raise _too_large(max_bytes)
    received, began = 0, time.monotonic()
    blocks = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                block = await anext(blocks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            message = f"Nothing arrived for {_IDLE_SECONDS:g} s."
            raise Problem(408, message, "too_slow", headers=_CLOSE) from error
        except ClientDisconnect as error:
            raise Problem(499, "The client has gone.", "client_closed_request") from error
        received += len(block)
        if received > max_bytes + extra_bytes:
            raise _too_large(max_bytes)
        passed = time.monotonic() - began
        if passed > _GRACE_SECONDS and received < passed * _MIN_BYTES_PER_SECOND:
            message = f"The upload is slower than {_MIN_BYTES_PER_SECOND:g} bytes a second."
            raise Problem(408, message, "too_slow", headers=_CLOSE)
        yield block


def _too_large(max_bytes: int) -> Problem:
    message = f"The file is larger than {max_bytes / 1e6:g} MB, the limit of this service."
    return Problem(413, message, "file_too_large", "file", headers=_CLOSE)
