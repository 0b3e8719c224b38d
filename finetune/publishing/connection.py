"""Requests to a model hub: retried with backoff, and refusals explained in one sentence."""

import email.utils
import logging
import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx2
from huggingface_hub import constants, get_token, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, parse_ratelimit_headers  # type: ignore[attr-defined]
from huggingface_hub.utils._http import default_client_factory

from finetune.errors import UserError

_LOGGER = logging.getLogger(__name__)

# Seconds before each retry, about two minutes in total; shortened at random, so that many clients do not retry at once
# (Brooker, Exponential Backoff And Jitter, 2015).
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# Before its first answer a hub is more likely unreachable than busy.
_FIRST_TRIES = 3
# The longest wait that a hub may ask for.
_LONGEST_WAIT = 300.0
_CONNECT_SECONDS, _SILENT_SECONDS = 10.0, 120.0
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_UNREACHED = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
_TOKEN = re.compile(r"\bhf_\w+|(?<=Bearer )\S+")


class _PatientClient(httpx2.Client):
    """A client for `huggingface_hub`, whose own tries most requests only once, and some six times silently.

    Here each request is retried in the same way and retries are logged. The final error is not a network error, so that
    `huggingface_hub` does not retry again. A file is sent again from its position at the start of the request.
    """

    def __init__(self, waits: Sequence[float]) -> None:
        super().__init__(
            event_hooks=default_client_factory().event_hooks,
            follow_redirects=True,
            timeout=httpx2.Timeout(_SILENT_SECONDS, connect=_CONNECT_SECONDS, pool=None),
        )
        self.waits = waits
        self.answered = False

    def request(self, method: str, url: Any, **options: Any) -> httpx2.Response:
        """Send a request until there is a usable answer; raises UserError if there is none."""
        body: Any = options.get("data")
        start = body.tell() if hasattr(body, "seek") else None
        options["timeout"] = self.timeout  # Some requests of `huggingface_hub` have no timeout.
        tries = 0
        while True:
            if start is not None:
                body.seek(start)
            tries += 1
            asked, response = None, None
            try:
                response = super().request(method, url, **options)
            except _UNREACHED as error:
                problem = f"can't be reached ({_first_line(error) or type(error).__name__})"
            else:
                self.answered = True
                if response.status_code not in _BUSY:
                    return response
                problem, asked = f"answers {response.status_code}", _read_wait(response)
            most = len(self.waits) + 1 if self.answered else min(_FIRST_TRIES, len(self.waits) + 1)
            if tries >= most or (asked or 0.0) > _LONGEST_WAIT:
                later = f", and asks to wait {asked:.0f} s" if asked else ""
                times = f"{tries} times" if tries > 1 else "once"
                raise UserError(f"The hub at {constants.ENDPOINT} {problem}{later}; tried {times}. {_LATER}")
            pause = self.waits[tries - 1] * random.uniform(0.5, 1.0) if asked is None else asked
            _LOGGER.info(f"the hub {problem}; trying again in {pause:.1f} s ({tries + 1} of {most})")
            time.sleep(pause)


_LATER = "Nothing here has changed: run the same command when it can be reached."


@contextmanager
def requests_to_hub(repo_id: str, waits: Sequence[float] = WAITS) -> Iterator[None]:
    """Let `huggingface_hub` retry its requests, and raise refusals of the hub as UserError.

    Each further try is logged. Raises UserError at once in offline mode or without a token.
    """
    if constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so no hub is used: unset it to push.")
    require_token()
    build_hf_headers()  # Sends a request for statistics once, whose failure does not matter.
    set_client_factory(lambda: _PatientClient(waits))
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:
        raise explain(error, repo_id) from error
    finally:
        set_client_factory(default_client_factory)


def explain(error: BaseException, repo_id: str) -> UserError:
    """An error of `huggingface_hub` as a message for users, without tokens."""
    causes = [error]
    while causes[-1].__cause__ is not None:  # The reason of a failed upload is the cause of another error.
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, OfflineModeIsEnabled):
            return UserError("HF_HUB_OFFLINE is set, so no hub is used: unset it to push.")
        if isinstance(cause, HfHubHTTPError):
            return UserError(_explain_answer(cause, repo_id))
    place = f"The hub at {constants.ENDPOINT}"
    if any(isinstance(cause, httpx2.TransportError) for cause in causes):
        return UserError(f"{place} can't be reached ({_first_line(causes[-1])}): look at HF_ENDPOINT. {_LATER}")
    return UserError(f"{repo_id} can't be pushed to: {hide_tokens(_first_line(causes[-1]))}. {_LATER}")


def _explain_answer(error: HfHubHTTPError, repo_id: str) -> str:
    status, endpoint = error.response.status_code, constants.ENDPOINT
    message = hide_tokens(" ".join((error.server_message or "").split()))
    because = f" ({message})" if message else ""
    if status == 401:
        return (
            f"The hub at {endpoint} doesn't know this token{because}: make one at {endpoint}/settings/tokens, "
            "and run hf auth login or set HF_TOKEN."
        )
    if status == 403:
        return (
            f"This token may not write to {repo_id}{because}: expected one with write access to it, from "
            f"{endpoint}/settings/tokens, or a repository of yours."
        )
    if status == 404:
        return f"The hub at {endpoint} has no {repo_id}, or none that this token may see{because}."
    if status == 413:
        return f"The hub at {endpoint} takes no file as large as one of these{because}: nothing was committed."
    return f"The hub at {endpoint} refuses this for {repo_id} with status {status}{because}."


def hide_tokens(text: str) -> str:
    """A text with everything that is or looks like a token replaced."""
    known = [os.environ.get("HF_TOKEN", "").strip(), get_token() or ""]
    for token in filter(None, known):
        text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


def require_token() -> None:
    """Raise UserError unless there is a valid token."""
    token = get_token()
    if token is None:
        raise UserError(
            f"There is no token for the hub at {constants.ENDPOINT}: make one with write access at "
            f"{constants.ENDPOINT}/settings/tokens, and run hf auth login or set HF_TOKEN."
        )
    # An invalid HTTP header would be printed in an error, with the token.
    if not re.fullmatch(r"[!-~]+", token):
        raise UserError("The token for the hub has invalid characters: set HF_TOKEN, or run hf auth login.")


def _read_wait(response: httpx2.Response) -> float | None:
    """The seconds that an answer asks to wait: Retry-After (RFC 9110, 10.2.3), or the hub's rate limit."""
    wait = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+", wait):
        return float(wait)
    if wait:
        try:
            return max(0.0, (email.utils.parsedate_to_datetime(wait) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            return None
    limits = parse_ratelimit_headers(response.headers)
    return float(limits.reset_in_seconds) if limits and limits.remaining == 0 and response.status_code == 429 else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")
