"""What a client did wrong or the service can't do now, as answers in the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.responses import JSONResponse

# OpenAI's type of error by status.
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Problem(Exception):
    """An answer that is an error: its status, a sentence, a code for programs, and the parameter that it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def describe(self) -> dict[str, object]:
        """The body of the answer."""
        kind = _TYPES.get(self.status) or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.describe(), self.status, self.headers)


def busy(message: str, retry_seconds: int, code: str = "busy") -> Problem:
    """An answer that asks the client to come back after some seconds."""
    return Problem(429, message, code, headers={"Retry-After": str(retry_seconds)})
