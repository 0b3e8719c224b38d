"""A process that a test kills: it exports a snapshot, or adds versions of a model and switches between them.

It prints each step once it has been done, after a line that says that it begins.
"""

import itertools
import sys
from pathlib import Path

from finetune.feedback.snapshots import export_snapshot
from finetune.feedback.store import Store
from finetune.feedback.versions import Versions


def export(store: Store, folder: Path) -> None:
    """Export one snapshot."""
    print("done", export_snapshot(store, folder, "worker").content_hash, flush=True)


def switch(store: Store, model: Path) -> None:
    """Add a version, promote it, go back, and so on."""
    versions = Versions(store)
    for _ in itertools.count():
        name = versions.next_name()
        for action in ("add", "promote", "rollback"):
            if action == "add":
                versions.add(model, "worker", name)
            elif action == "promote":
                versions.promote(name, "worker")
            else:
                versions.rollback("worker")
            print(action, name, flush=True)


def main() -> None:
    """worker.py (export|switch) STORE PATH."""
    store = Store(Path(sys.argv[2]))
    print("begin", flush=True)
    {"export": export, "switch": switch}[sys.argv[1]](store, Path(sys.argv[3]))


if __name__ == "__main__":
    main()
