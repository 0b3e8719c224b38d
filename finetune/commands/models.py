"""finetune models: the versions of a feedback store's model, and which one is the champion."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.commands.arguments import Commands
from finetune.commands.feedback_store import add_store, guard_packages, open_store, read_who
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.feedback.store import Store
    from finetune.feedback.versions import Version, Versions

_ACTIONS = "add MODEL | list | show NAME | promote NAME | rollback | compare A [B]"


def add_parser(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("models", help="versions of a model that learns from corrections: promote, roll back")
    add_store(parser)
    parser.add_argument("action", metavar="ACTION", nargs="+", help=_ACTIONS)
    parser.add_argument("--name", metavar="NAME", help="of a version that is added (default: version-001 and so on)")
    parser.add_argument("--force", action="store_true", help="promote a version that its gate refused")
    parser.add_argument("--data", metavar="SOURCE", help="what compare evaluates on")
    parser.add_argument("--split", metavar="NAME", help="of the data (default: test, or the only one)")
    parser.set_defaults(run=guard_packages(run))


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    with open_store(options) as store:
        _run(options, store, read_who(options))


def _run(options: argparse.Namespace, store: Store, who: str) -> None:
    from finetune.feedback.versions import CHAMPION, Versions

    versions = Versions(store)
    match options.action:
        case ["add", model]:
            version = versions.add(Path(model), who, options.name or versions.next_name())
            print(
                f"added {version.name} ({version.digest}); `finetune models … promote {version.name}` makes it champion"
            )
        case ["list"]:
            _list(versions.all(), versions.champion)
        case ["show", name]:
            _show(versions, name)
        case ["promote", name]:
            before = versions.promote(name, who, force=options.force)
            print(f"{name} is the champion" + (f" in place of {before}" if before else ""))
        case ["rollback"]:
            print(f"{versions.rollback(who)} is the champion again")
        case ["compare", *names] if 1 <= len(names) <= 2:
            _compare(versions, names if len(names) == 2 else [CHAMPION, *names], options)
        case _:
            raise UserError(f"Found {' '.join(options.action)!r}; expected {_ACTIONS}.")


def _list(versions: list[Version], champion: str | None) -> None:
    verdicts = {None: "from elsewhere", True: "passed its gate", False: "refused by its gate"}
    for version in versions:
        mark = " *" if version.name == champion else ""
        gate = verdicts[version.gate.get("passed")]
        parent = f", from {version.parent}" if version.parent else ""
        print(f"{version.name}{mark}: {version.digest}, {version.added_at[:16]} by {version.added_by}{parent}, {gate}")
    if not versions:
        print("no versions yet: `finetune models STORE add MODEL` adds one")


def _show(versions: Versions, name: str) -> None:
    version = versions.get(name)
    print(f"{version.name}: {versions.path(version.name)}")
    _list([version], versions.champion)
    if version.snapshot:
        print(f"trained on the snapshot {version.snapshot}")
    for check in version.gate.get("checks", ()):
        verdict = "passed" if check["passed"] else "refused"
        print(f"  {verdict}: {check['name']}: found {check['found']}, expected {check['expected']}")


def _compare(versions: Versions, names: list[str], options: argparse.Namespace) -> None:
    if options.data is None:
        raise UserError("compare needs --data SOURCE: the speech that both versions are evaluated on.")
    from finetune.commands import compare

    paths = [str(versions.path(name)) for name in names]
    parser = argparse.ArgumentParser()
    compare.add_parser(parser.add_subparsers())
    split = ["--split", options.split] if options.split else []
    compare.run(parser.parse_args(["compare", *paths, "--data", options.data, *split]))
