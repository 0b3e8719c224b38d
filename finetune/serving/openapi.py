"""What the OpenAPI document says about requests and answers that are read and written by hand."""

from __future__ import annotations

from typing import Any

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("word", "segment")
MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in {
        400: "A parameter is invalid",
        401: "No valid key",
        403: "The key does not allow it",
        404: "No such model, utterance or store",
        408: "The upload is too slow",
        413: "The file or its audio is too long",
        415: "Another kind of body",
        410: "The utterance was forgotten",
        422: "The audio can't be transcribed, or a value can't be used",
        429: "Busy: Retry-After says when to come back",
        503: "The service is about to end, or its store has failed",
    }.items()
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript",
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["text"]}},
            **{kind: {"schema": {"type": "string"}} for kind in (*MEDIA_TYPES.values(), "text/event-stream")},
        },
    },
    **ERRORS,
}
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "Audio or video with sound"},
                    "model": {"type": "string", "description": "A name of GET /v1/models; by default the first"},
                    "response_format": {"type": "string", "enum": list(FORMATS)},
                    "timestamp_granularities[]": {
                        "type": "array",
                        "items": {"type": "string", "enum": list(GRANULARITIES)},
                    },
                    "keywords[]": {"type": "array", "items": {"type": "string"}, "description": "Hotwords"},
                    "stream": {"type": "boolean"},
                    "language": {"type": "string", "description": "Ignored: a model has the language of its training"},
                    "prompt": {"type": "string", "description": "Ignored"},
                    "temperature": {"type": "number", "description": "Ignored: decoding is deterministic"},
                    "feedback_consent": {
                        "type": "string",
                        "description": "Who allowed what: it is kept as feedback; X-Feedback-Id is its id",
                    },
                },
            }
        }
    },
}
FEEDBACK_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "consent"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "The audio of an utterance"},
                    "consent": {"type": "string", "description": "`true`, or a text of who allowed what"},
                    "text": {"type": "string", "description": "What was said; without it the utterance is for review"},
                    "hypothesis": {"type": "string", "description": "What the model wrote; by default it is computed"},
                    "confidence": {"type": "number", "minimum": 0, "maximum": 1, "description": "Of the hypothesis"},
                    "words": {"type": "string", "description": "Of the hypothesis, as JSON: see verbose_json"},
                    "model": {"type": "string", "description": "A name of GET /v1/models; by default the first"},
                    "speaker": {"type": "string"},
                    "domain": {"type": "string", "maxLength": 64},
                    "licence": {"type": "string"},
                },
            }
        }
    },
}
AUDIO_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("audio/*", "application/*")},
    }
}
