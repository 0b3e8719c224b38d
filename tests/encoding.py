"""Sound files of many formats, as FFmpeg's libraries write them into a file or into a pipe."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np


def encode(
    samples: np.ndarray, rate: int, container: str, codec: str, pipe: bool = False, bit_rate: int = 0, **options: str
) -> bytes:
    """The file of (samples, channels) in FFmpeg's `container` and `codec`; into a `pipe` no length can be written."""
    written = io.BytesIO()

    class Pipe:
        def write(self, content: bytes) -> int:
            return written.write(content)

    layout = "mono" if samples.shape[1] == 1 else "stereo"
    target: Any = Pipe() if pipe else written
    with av.open(target, "w", format=container, options=options) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout=layout)
        if bit_rate:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        # Not all of FFmpeg's encoders take any number of samples.
        cutter = av.AudioResampler(stream.format, stream.layout, rate, frame_size=stream.frame_size or 1024)
        for piece in [*cutter.resample(frame), *cutter.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return written.getvalue()
