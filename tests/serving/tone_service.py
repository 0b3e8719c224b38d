"""`finetune serve` with a recogniser of tones in place of each model."""

import sys
from typing import Any

from tones import build_tone_recogniser

from finetune.cli import main
from finetune.inference.recogniser import Recogniser


def _load(*_: Any) -> Recogniser:
    return build_tone_recogniser()


if __name__ == "__main__":
    Recogniser.load = _load  # type: ignore[method-assign]
    main(["serve", *sys.argv[1:]])
