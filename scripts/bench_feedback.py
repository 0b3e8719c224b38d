"""The first page of a feedback store's review queue, reading all its corrections, and exporting them.

    python scripts/bench_feedback.py [--records 1000000] [--audio 2000] [--database URL]

A store is filled by bulk inserts with records of one hypothesis each: a third open, the others corrected. The queue's
first page is read ten times, as the page of the service and by a reviewer who skipped each hundredth. The target is
200 ms. `iterate_corrected` reads all corrected records, a page at a time. Only the first `--audio` records have audio,
of 32 kB each; these are exported by a second store, whose speed is compared with a copy of its audio on the same disk.
Peak memory is that of this process's own pages.

Measured with 1,000,000 records and 2000 audio files, SQLite, on one thread of 2 cores of an Intel Xeon (avx512_bf16,
amx_bf16) that ten other processes shared, so each time is several times that of an idle machine:

    filling                       572 s
    queue, first page             77 ms (longest 97 ms), of a reviewer 84 ms (longest 101 ms)
    reading all corrections       666,667 in 184 s, 3,600 a second; no more memory
    counting                      9.1 s
    export                        110 % of the speed of a copy of the same audio, synced (4.2 MB/s in files of 32 kB)
    peak memory                   350 MB, 2 MB more after the export
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from measurement import watch_pages
from parts import report_machine
from sqlalchemy import insert
from tqdm.auto import tqdm

from finetune.errors import UserError
from finetune.feedback.audio_files import hash_audio
from finetune.feedback.records import now
from finetune.feedback.schema import HYPOTHESES, REVIEWS, UTTERANCES
from finetune.feedback.snapshots import export_snapshot
from finetune.feedback.store import Store

_ROWS = 10_000
_AUDIO_BYTES = 32_000


def describe_records(first: int, count: int, digests: dict[int, str]) -> Iterator[dict[str, Any]]:
    """Rows of utterances with these numbers; a third is open."""
    for number in range(first, first + count):
        is_open = number % 3 == 0 and number not in digests
        yield {
            "id": number,
            "digest": digests.get(number) or hashlib.sha256(str(number).encode()).hexdigest(),
            "suffix": ".wav",
            "seconds": 1.0,
            "source": "benchmark",
            "domain": "default",
            "split": "train",
            "consent": "all/benchmark",
            "added_at": now(),
            "added_by": "benchmark",
            "reviewers_wanted": 1,
            "status": "open" if is_open else "corrected",
            "text": None if is_open else f"the quick brown fox {number}",
            "priority": number * 7919 % 100_003 / 100_003,
            "reasons": '{"low confidence": 0.5}',
        }


def fill(store: Store, count: int, digests: dict[int, str]) -> None:
    """Insert records with a hypothesis each; one reviewer skipped each hundredth."""
    for first in tqdm(range(1, count + 1, _ROWS), "filling", leave=False, disable=None):
        rows = list(describe_records(first, min(_ROWS, count + 1 - first), digests))
        shared = {"model": "m1", "text": "the quick brown fox", "confidence": 0.5, "words": "[]", "added_at": now()}
        with store.database.write() as connection:
            connection.execute(insert(UTTERANCES), rows)
            connection.execute(insert(HYPOTHESES), [{"utterance_id": row["id"], **shared} for row in rows])
            review = {"reviewer": "ann", "action": "skip", "added_at": now()}
            connection.execute(insert(REVIEWS), [{"utterance_id": row["id"], **review} for row in rows[::100]])


def put_audio(store: Store, count: int) -> dict[int, str]:
    """Store audio files for the first records; their digests by number."""
    digests: dict[int, str] = {}
    for number in range(1, count + 1):
        content = make_wave(number)
        digests[number] = hash_audio(content)
        store.audio.put(digests[number], content)
    return digests


def make_wave(number: int) -> bytes:
    """A second of noise as a WAV file, of 32 kB."""
    written = io.BytesIO()
    noise = np.random.default_rng(number).uniform(-0.1, 0.1, _AUDIO_BYTES // 2)
    soundfile.write(written, noise, 16000, format="WAV", subtype="PCM_16")
    return written.getvalue()


def measure(run: Callable[[], object], times: int = 10) -> str:
    """The median and the longest of several times, in milliseconds."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - started))
    return f"{statistics.median(taken):.1f} ms (longest of {times}: {max(taken):.1f} ms)"


def measure_copy(folder: Path, target: Path) -> float:
    """Seconds that a copy of a folder takes until it has reached the disk."""
    started = time.perf_counter()
    shutil.copytree(folder, target)
    for file in target.rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - started


def bench_queue(folder: Path, records: int, database: str | None) -> None:
    """Print the times of the queue and of reading all corrections, and peak memory."""
    peak = watch_pages()
    with closing(Store.create(folder, database=database)) as store:
        started = time.perf_counter()
        fill(store, records, {})
        print(f"filled with {records:,} records in {time.perf_counter() - started:.0f} s", flush=True)
        print(f"queue, first page: {measure(store.queue)}")
        print(f"queue, first page of a reviewer: {measure(lambda: store.queue(reviewer='ann'))}", flush=True)
        before = peak()
        started = time.perf_counter()
        count = sum(1 for _ in store.iterate_corrected())
        seconds = time.perf_counter() - started
        print(f"reading {count:,} corrections: {seconds:.1f} s, {count / seconds:,.0f} a second")
        print(f"peak memory: {peak() / 1e6:.0f} MB, {(peak() - before) / 1e6:.0f} MB more than before reading")
        print(f"counting: {measure(store.count, 3)}", flush=True)


def bench_export(folder: Path, count: int) -> None:
    """Print the speed of an export, and of a copy of the same audio."""
    peak = watch_pages()
    with closing(Store.create(folder / "store", test_share=0.0, validation_share=0.0)) as store:
        digests = put_audio(store, count)
        fill(store, count, digests)
        copied = measure_copy(folder / "store" / "audio", folder / "copy")
        megabytes = count * _AUDIO_BYTES / 1e6
        print(f"copy of {megabytes:.0f} MB of audio: {megabytes / copied:.1f} MB/s", flush=True)
        before = peak()
        started = time.perf_counter()
        try:
            export_snapshot(store, folder / "export", "benchmark")
        except UserError as error:
            print(f"export: {error}")
            return
        seconds = time.perf_counter() - started
        print(f"export: {megabytes / seconds:.1f} MB/s, {copied / seconds:.0%} of the copy's speed")
        print(f"peak memory: {peak() / 1e6:.0f} MB, {(peak() - before) / 1e6:.0f} MB more than before the export")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="No model is computed, so there is no --precision.",
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--audio", type=int, default=2000)
    parser.add_argument("--database", metavar="URL", help="an empty PostgreSQL database, for the first part")
    options = parser.parse_args()
    report_machine(None)
    with tempfile.TemporaryDirectory() as place:
        bench_queue(Path(place) / "queue", options.records, options.database)
        bench_export(Path(place), options.audio)


if __name__ == "__main__":
    main()
