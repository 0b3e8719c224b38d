"""Where in a recording somebody speaks (stand-in until the real one is merged)."""

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray


class DetectorState(Protocol):
    def detect(self, samples: NDArray[np.float32]) -> NDArray[np.float32]: ...

    def finish(self) -> NDArray[np.float32]: ...


class SpeechDetector(Protocol):
    def start(self) -> DetectorState: ...


class _State:
    def __init__(self, frame: int) -> None:
        self.frame, self.rest = frame, np.empty(0, np.float32)
        self.floor = np.inf

    def detect(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        samples = np.concatenate([self.rest, samples])
        count = len(samples) // self.frame
        self.rest = samples[count * self.frame :]
        if not count:
            return np.empty(0, np.float32)
        frames = samples[: count * self.frame].reshape(count, -1).astype(np.float64)
        power = (frames**2).mean(1)
        self.floor = min(self.floor, max(float(np.quantile(power, 0.1)), 1e-8))
        return (power > 10 * self.floor).astype(np.float32)

    def finish(self) -> NDArray[np.float32]:
        return np.zeros(1 if len(self.rest) else 0, np.float32)


class EnergyDetector:
    def __init__(self, sampling_rate: int) -> None:
        self.frame = round(0.02 * sampling_rate)

    def start(self) -> Any:
        return _State(self.frame)


def build_detector(name: Literal["energy", "silero"], sampling_rate: int) -> SpeechDetector:
    return EnergyDetector(sampling_rate)
