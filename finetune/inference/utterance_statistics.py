"""How a model does on its validation split, utterance by utterance: what a service compares its own utterances with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.files import write_json
from finetune.resources.model_json import read_object

STATISTICS_FILE = "utterance_statistics.json"
_NUM_QUANTILES = 101
_MOST_VALUES = 10**9


@dataclass(frozen=True)
class Distribution:
    """The distribution of `count` values from 0 to 1.

    `quantiles` are the values at 0, 1, ... 100 % of the sorted values, linearly interpolated.
    """

    count: int
    quantiles: tuple[float, ...]

    @classmethod
    def measure(cls, values: Iterable[float | None]) -> Distribution | None:
        """The distribution of the values that are not None; None if there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        quantiles = np.quantile(known, np.linspace(0, 1, _NUM_QUANTILES))
        # Interpolation rounds, so that a quantile may be less than the one before by a bit.
        return cls(len(known), tuple(np.maximum.accumulate(quantiles).tolist()))

    @classmethod
    def parse(cls, values: Any) -> Distribution | None:
        """A distribution from its fields, as JSON has them; raises ValueError for other values."""
        if values is None:
            return None
        if not isinstance(values, dict) or set(values) != {"count", "quantiles"}:
            raise ValueError(f"found {str(values)[:40]}, expected count and quantiles")
        count, quantiles = values["count"], values["quantiles"]
        if type(count) is not int or not 1 <= count <= _MOST_VALUES:
            raise ValueError(f"found the count {str(count)[:20]}, expected a whole number from 1 to {_MOST_VALUES}")
        if not isinstance(quantiles, list) or len(quantiles) != _NUM_QUANTILES:
            raise ValueError(f"expected a list of {_NUM_QUANTILES} quantiles")
        if not all(type(value) in (int, float) and 0 <= value <= 1 for value in quantiles):
            raise ValueError("expected quantiles from 0 to 1")
        if quantiles != sorted(quantiles):
            raise ValueError("expected quantiles in ascending order")
        return cls(count, tuple(map(float, quantiles)))


@dataclass(frozen=True)
class UtteranceStatistics:
    """The distributions of two values of an utterance; None for a value that no utterance has.

    `confidence` is the mean confidence of the words of greedy decoding, which an utterance without words has not.
    `blank_ratio` is the share of the frames whose likeliest symbol is the blank.
    """

    confidence: Distribution | None
    blank_ratio: Distribution | None

    def to_json(self) -> dict[str, Any]:
        """All values."""
        return asdict(self)

    @classmethod
    def parse(cls, values: Any) -> UtteranceStatistics:
        """What `to_json` returned; raises ValueError for other values."""
        if not isinstance(values, dict) or set(values) != {"confidence", "blank_ratio"}:
            raise ValueError("expected confidence and blank_ratio")
        return cls(**{name: Distribution.parse(each) for name, each in values.items()})

    def save(self, model: Path) -> None:
        """Write them into the folder of a model."""
        write_json(model / STATISTICS_FILE, self.to_json())

    @classmethod
    def load(cls, model: Path) -> UtteranceStatistics | None:
        """Read what `save` wrote into the folder of a model; None without the file.

        Raises UserError for a damaged file.
        """
        file = model / STATISTICS_FILE
        if not file.exists():
            return None
        try:
            return cls.parse(read_object(file))
        except ValueError as error:
            raise UserError(f"{file} is damaged: {error}; without the file the service has no drift score.") from error
