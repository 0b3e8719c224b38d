"""finetune improve: a candidate from a store's champion and corrections, with the proof whether it is better."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.commands import arguments
from finetune.commands.feedback_store import add_store, guard_packages, open_store, read_who
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.feedback.snapshots import Snapshot
    from finetune.feedback.store import Store
    from finetune.feedback.versions import Versions
    from finetune.run.improvement_report import Version

_LOGGER = logging.getLogger(__name__)


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("improve", help="train a candidate on corrections, and prove whether it is better")
    add_store(parser)
    arguments.add_recipe_file(parser)
    add = parser.add_argument
    add("--replay", metavar="DATA", help="the old data: a folder, manifest or hub name (default: the recipe's data)")
    add("--replay-share", type=float, default=0.3, metavar="F", help="of the utterances of an epoch (default: 0.3)")
    add("--margin", type=float, default=0.01, metavar="F", help="how much WER on old data may rise (default: 0.01)")
    add("--output", metavar="DIR", help="default: STORE/improvements/VERSION")
    add("--min-corrections", type=int, default=1, metavar="N", help="wait for so many new ones (default: 1)")
    add("--min-drifted", type=int, metavar="N", help="or for so many new ones that came while speech drifted")
    add("--promote", action="store_true", help="make a candidate that passes the champion")
    add("--watch", type=float, metavar="MINUTES", help="do not end: look so often whether there are enough corrections")
    parser.set_defaults(run=guard_packages(run), resumes=True)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    if options.watch is not None and options.watch <= 0:
        raise UserError(f"--watch is {options.watch:g}; expected minutes above 0.")
    from finetune.commands.launch import join_processes

    join_processes()
    options.who = read_who(options)
    while True:
        try:
            with open_store(options) as store:
                _improve_once(options, store)
        except UserError as error:
            if options.watch is None:
                raise
            _LOGGER.warning(f"{error} The next look is in {options.watch:g} minutes.")
        if options.watch is None:
            return
        time.sleep(60 * options.watch)


def _improve_once(options: argparse.Namespace, store: Store) -> None:
    """Make a candidate if there are enough corrections for one."""
    from finetune.commands.launch import keep_kernels, set_training_switches
    from finetune.feedback.versions import CHAMPION, Versions
    from finetune.recipe.load import load_recipe
    from finetune.run.gate import GateLimits
    from finetune.run.improvement import ImproveOptions, improve

    versions = Versions(store)
    champion, name = versions.get(CHAMPION), versions.next_name()
    output = Path(options.output) if options.output else store.folder / "improvements" / name
    snapshot = _find_snapshot(store, name) or _export_if_enough(options, store, store.folder / "snapshots" / name, name)
    if snapshot is None:
        if options.promote and (waiting := versions.find_waiting()):  # An earlier call ended before it did this.
            _promote(versions, waiting, champion.name, options.who)
        return
    replay = [f"data.root={options.replay}"] if options.replay else []
    recipe = load_recipe(Path(options.recipe), [*options.overrides, *replay])
    keep_kernels(recipe.training.mixed_precision)
    set_training_switches(recipe.training.compile)
    how = ImproveOptions(
        replay_share=options.replay_share, limits=GateLimits(margin=options.margin), history=_history(versions)
    )
    improvement = improve(versions.path(champion.name), Path(snapshot.path), recipe, output, how)
    gate = {**improvement.to_json(), "reasons": improvement.refusals}
    versions.add(improvement.model, options.who, name, parent=champion.name, snapshot=snapshot.name, gate=gate)
    verdict = "passed its gate" if improvement.passed else "was refused by its gate"
    print("\n".join([f"{name} {verdict}; report: {output / 'report.html'}", *improvement.refusals]))
    if improvement.passed and options.promote:
        _promote(versions, name, champion.name, options.who)


def _promote(versions: Versions, name: str, before: str, who: str) -> None:
    versions.promote(name, who)
    print(f"{name} is the champion in place of {before}")


def _find_snapshot(store: Store, name: str) -> Snapshot | None:
    """The snapshot of an improvement that was interrupted."""
    from finetune.feedback.snapshots import list_snapshots

    return next((each for each in list_snapshots(store) if each.name == name), None)


def _export_if_enough(options: argparse.Namespace, store: Store, folder: Path, name: str) -> Snapshot | None:
    from finetune.feedback.snapshots import count_new, export_snapshot

    found, drifted = count_new(store), count_new(store, drifted=True)
    enough = found >= options.min_corrections or (options.min_drifted is not None and drifted >= options.min_drifted)
    if not enough or not found:
        print(f"{found} new corrections, {drifted} of drifted speech: waiting for {max(1, options.min_corrections)}")
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    return export_snapshot(store, folder, options.who, name)


def _history(versions: Versions) -> tuple[Version, ...]:
    """The WER by domain of the candidates that became champions, in order."""
    from finetune.run.improvement_report import Version

    champions = [versions.get(name) for name in versions.history()]
    return tuple(
        Version(each.name, {change["name"]: change["after"] for change in (each.gate["golden"], *each.gate["domains"])})
        for each in champions
        if each.gate
    )
