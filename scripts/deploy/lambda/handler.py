"""AWS Lambda: recordings that come into a bucket become texts in another place, and a function URL answers with text.

The environment says what is used: `FINETUNE_MODEL` is the folder of a model or an s3:// URL of one, `FINETUNE_OUTPUT`
the s3:// URL below which an event's results are written: BUCKET/KEY.json, or BUCKET/KEY.error.json for a recording that
can't be transcribed. An event that comes twice writes the same files again.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import json
import os
import sys
import tempfile
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.audio.waveforms import AudioError
from finetune.errors import UserError
from finetune.inference.formats import describe_transcript
from finetune.resources.storage import find_place, is_url, reporting

if TYPE_CHECKING:
    from finetune.audio.stream import Audio
    from finetune.inference.transcriber import Transcriber

# What is left then is for writing the reason.
_RESERVE_MILLISECONDS = 5000


class TooLong(AudioError):
    """The function's time is nearly over."""


def handle(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Answer an event of S3, with the URLs that were written, or a request of a function URL.

    Raises UserError for another event and for wrong settings, and StorageError where a bucket fails: Lambda then tries
    an event of S3 again, twice, and hands it to the queue of failures.
    """
    if "Records" in event:
        return {"written": [_write_result(record, context) for record in event["Records"]]}
    if "http" in event.get("requestContext", {}):
        return _answer_request(event, context)
    raise UserError(f"The event has {', '.join(sorted(event)) or 'nothing'}; expected one of S3 or of a function URL.")


def _write_result(record: Mapping[str, Any], context: Any) -> str:
    if record.get("eventSource") != "aws:s3":
        raise UserError(f"The event is one of {record.get('eventSource')}; expected aws:s3.")
    bucket, key = record["s3"]["bucket"]["name"], urllib.parse.unquote_plus(record["s3"]["object"]["key"])
    source, output = f"s3://{bucket}/{key}", _find_output()
    if source.startswith(f"{output}/"):
        raise UserError(f"{source} is below FINETUNE_OUTPUT: the function would transcribe its own results for ever.")
    try:
        result, suffix = _transcribe(source, context), ".json"
    except AudioError as error:
        # The storage's own faults come as AudioError, too, and may be over soon; only these are tried again.
        _require_readable(source)
        result, suffix = {"error": str(error)}, ".error.json"
    place = f"{output}/{bucket}/{key}{suffix}"
    with reporting(place):
        find_place(place).write_text(json.dumps({"source": source, **result}, ensure_ascii=False), encoding="utf-8")
    return place


def _find_output() -> str:
    output = os.environ.get("FINETUNE_OUTPUT", "").rstrip("/")
    if not is_url(output):
        raise UserError(f"FINETUNE_OUTPUT is {output!r}; expected s3://BUCKET/FOLDER, where results are written.")
    return output


def _require_readable(source: str) -> None:
    with reporting(source), find_place(source).open("rb") as file:
        file.read(1)


def _answer_request(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    if (method := event["requestContext"]["http"].get("method")) != "POST":
        return _answer(405, {"error": f"Found {method}; expected POST with the bytes of a recording."})
    body = event.get("body") or ""
    try:
        audio = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()
    except binascii.Error:
        return _answer(400, {"error": "The body is not base64, which a function URL makes of bytes."})
    if not audio:
        return _answer(400, {"error": "The body is empty; expected the bytes of a recording."})
    try:
        return _answer(200, _transcribe(io.BytesIO(audio), context))
    except TooLong as error:
        return _answer(413, {"error": str(error)})
    except AudioError as error:
        return _answer(422, {"error": f"The recording can't be read: {error}."})


def _answer(status: int, values: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"content-type": "application/json; charset=utf-8", "cache-control": "no-store"}
    return {"statusCode": status, "headers": headers, "body": json.dumps(values, ensure_ascii=False)}


def _transcribe(audio: Audio, context: Any) -> dict[str, Any]:
    def check_time(_: float) -> None:
        if context.get_remaining_time_in_millis() < _RESERVE_MILLISECONDS:
            raise TooLong("The recording is too long for the time of this function: part it, or use the service.")

    [(_, found)] = load_transcriber().transcribe_many([(None, audio)], on_progress=check_time)
    if isinstance(found, AudioError):
        raise found
    return describe_transcript(found)


@functools.cache
def load_transcriber() -> Transcriber:
    """The transcriber of FINETUNE_MODEL, loaded by the first event; raises UserError."""
    model = os.environ.get("FINETUNE_MODEL", "/model")
    if is_url(model):
        sys.path.append(os.environ.get("FINETUNE_DEPLOY", "/opt/deploy"))  # Where the image has fetch_model.py.
        from fetch_model import fetch_model  # type: ignore[import-not-found]

        model = str(
            fetch_model(
                model, Path(tempfile.gettempdir(), "models", Path(model).name), os.environ.get("FINETUNE_MODEL_DIGEST")
            )
        )
    from finetune.inference.recogniser import Recogniser
    from finetune.inference.transcriber import Transcriber

    return Transcriber(Recogniser.load(Path(model)))
