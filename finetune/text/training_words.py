"""The words of a run's training transcripts, kept beside the model and not in it: they may be private."""

import gzip
from collections.abc import Iterable
from pathlib import Path

from finetune.errors import UserError
from finetune.files import write_bytes
from finetune.resources.limits import MAX_WORD_LIST_BYTES, unpack
from finetune.text.word_units import split_words

FILE = "training_words.txt.gz"


def save_training_words(run: Path, transcripts: Iterable[str]) -> None:
    """Write each word once, sorted, into a run's folder."""
    words = sorted({word for transcript in transcripts for word in split_words(transcript)})
    text = "".join(word + "\n" for word in words)
    write_bytes(run / FILE, gzip.compress(text.encode("utf-8"), mtime=0))


def load_training_words(model: str | Path) -> frozenset[str] | None:
    """The training words of a model's run, from the folder above the model's; None where there is no such file.

    Raises UserError for a damaged file.
    """
    file = Path(model).parent / FILE
    if not file.is_file():
        return None
    try:
        # In scripts without spaces an older file has whole sentences, where words are characters now.
        return frozenset(split_words(unpack(file.read_bytes(), MAX_WORD_LIST_BYTES).decode("utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it to report no words unseen in training.") from error
