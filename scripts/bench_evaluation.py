"""What an evaluation costs beyond the model: counts, intervals, slices, errors, and the report.

    python scripts/bench_evaluation.py [--utterances 10000] [--compare]

Made-up transcripts of 5 to 35 words by 100 speakers with an accent each, recognised with a tenth of the words wrong.
Beside the times of each part stands what is done while the waveforms are in memory: the SNR estimate, for utterances
of 10 s. The limit is the goal: 10 s for 10,000 utterances on 2 cores.

Measured on 2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni), other programs running: 4.7 s (SNR 1.4,
counts 0.8, analysis 1.9, report 0.4, normalisation 0.2), and 4.3 s for a comparison.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from parts import report_machine

from finetune.audio.snr import estimate_snr
from finetune.evaluation.analysis import analyse
from finetune.evaluation.comparison import compare
from finetune.evaluation.errors import analyse_errors
from finetune.evaluation.intervals import bootstrap
from finetune.evaluation.report import write_report
from finetune.evaluation.results import Result, count_results
from finetune.evaluation.slices import score_slices
from finetune.text.transcripts import DEFAULT_TRANSFORMS, build_normalizer

T = TypeVar("T")
LETTERS = list("abcdefghijklmnopqrstuvwxyz")


def make_results(number: int, seed: int) -> list[Result]:
    """Results whose references don't depend on the seed; the words that are wrong do."""
    texts, errors = np.random.default_rng(0), np.random.default_rng(seed)
    words = ["".join(texts.choice(LETTERS, size=size)) for size in texts.integers(1, 10, 20000)]
    results = []
    for i in range(number):
        said = texts.choice(words, size=texts.integers(5, 36)).tolist()
        heard = [word if share > 0.1 else word[:-1] for word, share in zip(said, errors.random(len(said)), strict=True)]
        speaker = f"speaker {i % 100}"
        text = " ".join(said)
        result = Result(f"{i}.wav", text, " ".join(heard), text, len(said) / 2.5, speaker, {"accent": f"{i % 7}"})
        results.append(result)
    return results


def measure(name: str, function: Callable[[], T], total: list[float]) -> T:
    """What a function returns; its seconds are printed and added to `total`."""
    started = time.perf_counter()
    value = function()
    total.append(time.perf_counter() - started)
    print(f"{name}: {total[-1]:.2f} s", flush=True)
    return value


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0], epilog="No model is computed, so there is no --precision."
    )
    parser.add_argument("--utterances", type=int, default=10000)
    parser.add_argument("--compare", action="store_true", help="also compare two systems")
    options = parser.parse_args()
    report_machine(None)
    results = make_results(options.utterances, 1)
    total: list[float] = []
    started = time.process_time()
    speakers = [result.speaker for result in results]
    waveform = np.random.default_rng(0).standard_normal(160_000).astype(np.float32)
    normalize = build_normalizer(DEFAULT_TRANSFORMS)
    measure("SNR estimates", lambda: [estimate_snr(waveform, 16000) for _ in results], total)
    measure("normalised hypotheses", lambda: [normalize(result.hypothesis) for result in results], total)
    counts = measure("counts", lambda: count_results(results), total)
    with tempfile.TemporaryDirectory() as folder:
        parts: list[float] = []
        measure("  intervals over speakers", lambda: bootstrap(counts, speakers), parts)
        measure("  intervals over utterances", lambda: bootstrap(counts, [None] * len(results)), parts)
        measure("  slices", lambda: score_slices(results, counts), parts)
        measure("  errors", lambda: analyse_errors(results, counts), parts)
        analysis = measure("analysis, of which these are parts", lambda: analyse(results, counts), total)
        measure("report", lambda: write_report(Path(folder) / "report", "a report", analysis), total)
    own = time.process_time() - started
    print(f"{len(results):,} utterances, all together: {sum(total):.1f} s; {own:.1f} s of one core, parts twice")
    if options.compare:
        other = make_results(options.utterances, 2)
        print(measure("comparison", lambda: compare(results, other), []).sentence())


if __name__ == "__main__":
    main()
