"""What a user can mend, and how a fault of the package itself is named."""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).parent

# What is said of a model whose weights PyTorch's restricted unpickler refuses.
PICKLED = "has a pytorch_model.bin that could run code, so it is not read: take a model whose weights are safetensors."


class UserError(Exception):
    """Something the user can mend; the command line prints it as one sentence and exits with code 2.

    The message says what was found, what was expected and what to do.

    >>> from finetune.errors import UserError
    >>> from finetune.evaluation.metrics import metric_path
    >>> try:
    ...     metric_path("bleu")
    ... except UserError as error:
    ...     print(error)
    There is no metric 'bleu': choose one of wer, cer.
    """


class TranscriptError(UserError):
    """A transcript that a transform of the normalisation refuses, as "reason: detail"."""


class TransformError(ValueError):
    """A transform of text or audio that is unknown or has an invalid argument: what was found and expected."""


class Interrupted(Exception):
    """Training was asked to stop, and did so after a step (its argument) and a checkpoint."""


def format_error(error: Exception) -> str:
    """The first line of what an error of a library says, and its type where that says too little."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    if not lines:
        return kind
    return f"{kind} {lines[0][:300]}" if isinstance(error, KeyError) else lines[0][:300]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The text after "unknown NAME" in an error, with the most similar of the known names if one is similar."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ";"


def describe_fault(error: Exception) -> str:
    """The reason that an error gives for leaving out the recording or row that it came from, as "reason: detail".

    A UserError gives its own message. Anything else is a fault of the package, which stays findable: its type and the
    innermost line of the package that it passed through are part of the reason.
    """
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    place = ""
    if inside:
        file = Path(inside[-1].filename).relative_to(_PACKAGE.parent).as_posix()
        place = f" in {file}:{inside[-1].lineno}"
    kind = "out of memory" if isinstance(error, MemoryError) else "internal error"
    message = " ".join(str(error).split())
    return f"{kind} {type(error).__name__}{place}" + (f": {message}" if message else "")
