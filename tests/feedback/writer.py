"""A process that adds utterances to a store, and prints what was acknowledged: its number and the utterance's."""

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from feedback.conftest import make_utterance

from finetune.feedback.store import Store

_PRINTING = threading.Lock()


def add_range(store: Store, numbers: range, correct: bool) -> None:
    """Add an utterance for each number, with a correction where that is asked for."""
    for number in numbers:
        text = f"corrected {number}" if correct else None
        receipt = store.add(make_utterance(number, f"heard {number}"), "service", text)
        with _PRINTING:
            print(number, receipt.id, receipt.is_new, flush=True)


def main() -> None:
    """Add the numbers from FIRST on in THREADS threads: writer.py STORE FIRST COUNT THREADS (open|corrected)."""
    folder, first, count, threads, kind = sys.argv[1:]
    store = Store(Path(folder))
    parts = [range(int(first) + part, int(first) + int(count), int(threads)) for part in range(int(threads))]
    running = [threading.Thread(target=add_range, args=(store, part, kind == "corrected")) for part in parts]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


if __name__ == "__main__":
    main()
