"""finetune feedback: a store of what models wrote and how people corrected it."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.commands import arguments
from finetune.commands.feedback_store import Command, add_store, guard_packages, open_store, read_who
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.feedback.records import Remains, Review, Utterance
    from finetune.feedback.store import Store

_LOGGER = logging.getLogger(__name__)


def add_parser(commands: arguments.Commands) -> None:
    """Add the commands `feedback init`, `feedback add` and so on."""
    parser = commands.add_parser("feedback", help="a store of corrections: collect, review, export, forget")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_store_commands(parsers)
    _add_entry_commands(parsers)
    _add_review_commands(parsers)
    _add_record_commands(parsers)


def _add_store_commands(commands: arguments.Commands) -> None:
    add = _add(commands, "init", "make a store in a new folder", _init).add_argument
    add("--database", metavar="URL", help="postgresql://USER@HOST/NAME (default: SQLite in the store's folder)")
    add("--audio", metavar="URL", help="a folder or URL for the audio (default: in the store's folder)")
    add("--reviewers", type=int, default=1, metavar="N", help="reviewers of each utterance (default: 1)")
    add("--test-share", type=float, default=0.1, metavar="F", help="share of the speakers in the test set (0.1)")
    add("--validation-share", type=float, default=0.1, metavar="F", help="share of the validation set (0.1)")
    parser = commands.add_parser("new-key", help="write a new key for an encrypted store, readable by you alone")
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(run=guard_packages(_write_key))
    add = _add(commands, "rotate-key", "have another key open a store", _rotate_key).add_argument
    add("--new-key-file", required=True, metavar="FILE", help="the key from now on")


def _add_entry_commands(commands: arguments.Commands) -> None:
    add = _add(commands, "add", "add a recording with its text", _add_utterance).add_argument
    add("audio", metavar="AUDIO")
    add("--text", help="what is said in it; without it --model's text waits in the review queue")
    add("--consent", required=True, metavar="WHO/WHAT", help="who allowed its use for what")
    for name in ("speaker", "domain", "licence"):
        add(f"--{name}", metavar="NAME")
    add("--model", metavar="MODEL", help="transcribe it, too, and keep what this model writes")
    add("--alphabet-of", metavar="MODEL", help="refuse letters and digits that this model can't write")
    add = _add(commands, "import", "add folders, tables and exports of Label Studio", _import).add_argument
    add("paths", metavar="PATH", nargs="+", help="audio with .txt beside, metadata.csv, CSV, JSONL, or an export")
    add("--consent", metavar="WHO/WHAT", help="of all, where there is no column consent")
    add("--audio-root", metavar="DIR", help="where the audio of a Label Studio export is, found by its name")
    add("--config", metavar="XML", help="the labeling configuration of a Label Studio project")
    add("--text-name", metavar="NAME", help="of the project's field with the text, if it has several")
    add("--allow-outside", action="store_true", help="also read audio outside the folder of a table")
    add("--model", metavar="MODEL", help="transcribe what comes without a hypothesis, and keep what it writes")
    add("--alphabet-of", metavar="MODEL", help="leave out texts with letters or digits that this model can't write")
    add("--rejected", metavar="FILE", help="write each row that was left out, and the reason, as CSV")


def _add_review_commands(commands: arguments.Commands) -> None:
    add = _add(commands, "review-queue", "show what most deserves a person's time", _show_queue).add_argument
    add("--limit", type=int, default=20, metavar="N", help="at most so many (default: 20)")
    add("--label-studio", metavar="DIR", help="write them as tasks of Label Studio, with their audio, to a new folder")
    add("--json", action="store_true", help="print an object in each line")
    add = _add(commands, "correct", "say what is said in an utterance", _correct).add_argument
    add("number", type=int, metavar="NUMBER")
    add("text", metavar="TEXT")
    add("--alphabet-of", metavar="MODEL", help="refuse letters and digits that this model can't write")
    add = _add(commands, "reject", "say why an utterance can't be used", _reject).add_argument
    add("number", type=int, metavar="NUMBER")
    add("reason", metavar="REASON")


def _add_record_commands(commands: arguments.Commands) -> None:
    add = _add(commands, "stats", "count utterances and hours", _show_stats).add_argument
    add("--json", action="store_true", help="print an object")
    add = _add(commands, "audit", "show who did what when", _show_audit).add_argument
    add("--json", action="store_true", help="print an object in each line")
    add = _add(commands, "export", "write all corrected utterances as a corpus to train on", _export).add_argument
    add("folder", metavar="DIR", help="a new folder")
    add("--name", metavar="NAME", help="of the snapshot (default: by its content)")
    parser = _add(commands, "forget", "delete utterances for good, also from snapshots", _forget)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--speaker", metavar="NAME", help="all of this speaker")
    chosen.add_argument("--utterance", type=int, nargs="+", metavar="N", help="by number")
    add = _add(commands, "check", "finish deletions, delete unused audio, find lost audio", _check).add_argument
    add("--delete-orphans", action="store_true", help="also where init got the place of the audio")


def _add(commands: arguments.Commands, name: str, text: str, run: Command) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text)
    add_store(parser)
    parser.set_defaults(run=guard_packages(run))
    return parser


def _init(options: argparse.Namespace) -> None:
    from finetune.feedback.sealing import read_master_key
    from finetune.feedback.store import Store
    from finetune.files import delete

    folder = Path(options.store)
    key = read_master_key(Path(options.key_file) if options.key_file else None)
    was_there = os.path.lexists(folder)
    try:
        store = Store.create(
            folder,
            database=options.database,
            audio=options.audio,
            master_key=key,
            reviewers_wanted=options.reviewers,
            test_share=options.test_share,
            validation_share=options.validation_share,
        )
    except BaseException:
        if not was_there:
            delete(folder)
        raise
    with closing(store):
        store.log(read_who(options), "init", str(folder))
    sealed = "encrypted" if key else "not encrypted"
    print(f"{folder} is a store ({sealed}): `finetune feedback import {folder} …` adds to it.")


def _write_key(options: argparse.Namespace) -> None:
    from finetune.feedback.sealing import new_master_key

    file = Path(options.file)
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as error:
        raise UserError(f"{file} exists already, and no key is overwritten: choose a new file.") from error
    except OSError as error:
        raise UserError(f"The key can't be written to {file}: {error.strerror}.") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(new_master_key() + "\n")
        opened.flush()
        os.fsync(descriptor)
    print(f"{file} has a new key. Keep a copy: without it nobody can read the store.")


def _rotate_key(options: argparse.Namespace) -> None:
    from finetune.feedback.sealing import read_master_key

    old = read_master_key(Path(options.key_file) if options.key_file else None)
    new = read_master_key(Path(options.new_key_file))
    with open_store(options) as store:
        if old is None or not store.seal.is_active:
            raise UserError(f"{options.store} is not encrypted, so it has no key to change: make a new store with one.")
        if new is None:
            raise UserError(f"{options.new_key_file} has no key: `finetune feedback new-key FILE` writes one.")
        store.rotate_key(old, new, read_who(options))
    print(
        f"{options.store} is opened by {options.new_key_file} from now on. Services that run need it in the place of "
        "their key file: until then they answer 503 to what is new."
    )


def _add_utterance(options: argparse.Namespace) -> int:
    from finetune.commands.feedback_import import add_recording

    with open_store(options) as store:
        return add_recording(store, options, read_who(options))


def _import(options: argparse.Namespace) -> int:
    from finetune.commands.feedback_import import import_paths

    with open_store(options) as store:
        return import_paths(store, options, read_who(options))


def _show_queue(options: argparse.Namespace) -> None:
    if options.limit < 1:
        raise UserError(f"--limit is {options.limit}; expected 1 or more.")
    with open_store(options) as store:
        queue = store.queue(min(options.limit, sys.maxsize))
        if options.label_studio:
            from finetune.feedback.label_studio_tasks import write_tasks

            write_tasks(store, queue, Path(options.label_studio), read_who(options))
            print(f"{len(queue)} tasks, their labeling configuration and audio are in {options.label_studio}.")
            return
    for utterance in queue:
        if options.json:
            print(json.dumps({name: value for name, value in asdict(utterance).items() if name != "reviews"}))
        else:
            print(_describe(utterance))


def _describe(utterance: Utterance) -> str:
    reasons = {"conflict": 1.0} if utterance.status == "conflict" else {}
    reasons |= utterance.reasons
    shown = ", ".join(f"{name} {value:.2f}" for name, value in reasons.items()) or "no reason"
    text = utterance.hypotheses[-1].text if utterance.hypotheses else "(no hypothesis)"
    return f"{utterance.id}\t{utterance.priority:.2f} ({shown})\t{utterance.seconds:.1f} s\t{text}"


def _correct(options: argparse.Namespace) -> None:
    from finetune.commands.feedback_import import load_alphabet
    from finetune.feedback.records import Review, normalize

    _require_text("text", options.text, load_alphabet(options))
    with open_store(options) as store:
        hypotheses = store.get(options.number).hypotheses
        accepted = bool(hypotheses) and normalize(hypotheses[-1].text) == normalize(options.text)
        review = Review(reviewer=read_who(options), action="accept" if accepted else "edit", text=options.text)
        _review(store, options.number, review)


def _reject(options: argparse.Namespace) -> None:
    from finetune.feedback.records import Review

    _require_text("reason", options.reason, None)
    with open_store(options) as store:
        review = Review(reviewer=read_who(options), action="reject", reason=options.reason)
        _review(store, options.number, review)


def _require_text(what: str, text: str, letters: frozenset[str] | None) -> None:
    from finetune.feedback.imports.adding import check_text

    try:
        check_text(text, letters)
    except UserError as error:
        raise UserError(f"The {what} can't be used: {error}.") from error


def _review(store: Store, number: int, review: Review) -> None:
    receipt = store.review(number, review)
    if receipt.note:
        _LOGGER.warning(receipt.note)
    print(f"Utterance {number} is {receipt.status}.")


def _show_stats(options: argparse.Namespace) -> None:
    with open_store(options) as store:
        counts = store.count()
    if options.json:
        print(json.dumps(counts, indent=2))
        return
    for name, each in counts.items():
        print(f"{name}: {each['utterances']:,.0f} utterances, {each['seconds'] / 3600:.2f} hours")
    if not counts:
        print("no utterances")


def _show_audit(options: argparse.Namespace) -> None:
    with open_store(options) as store:
        for entry in store.audit_log():
            details = json.dumps(entry.details, ensure_ascii=False) if entry.details else ""
            line = f"{entry.at}\t{entry.who}\t{entry.action}\t{entry.subject}\t{details}"
            print(json.dumps(asdict(entry)) if options.json else line.rstrip())


def _export(options: argparse.Namespace) -> None:
    from finetune.feedback.snapshots import export_snapshot

    with open_store(options) as store:
        snapshot = export_snapshot(store, Path(options.folder), read_who(options), options.name)
    print(f"The snapshot {snapshot.name} is in {options.folder}: train on it with data.root={options.folder}.")


def _forget(options: argparse.Namespace) -> int:
    from finetune.feedback.snapshots import forget

    with open_store(options) as store:
        numbers: Sequence[int] = options.utterance or store.find_speaker(options.speaker)
        if not numbers:
            raise UserError(f"{options.store} has no utterances of the speaker {options.speaker}.")
        forgotten = forget(store, numbers, read_who(options))
    print(f"{len(forgotten.ids)} utterances are deleted.")
    is_whole = _report_remains(forgotten.remains, options.store)
    if forgotten.snapshots:
        names = ", ".join(forgotten.snapshots)
        _LOGGER.warning(f"they were in the snapshots {names}: models trained on these know them")
    if forgotten.unreachable:
        _LOGGER.error(f"their files in {', '.join(forgotten.unreachable)} can't be reached: delete them there.")
    return 0 if is_whole and not forgotten.unreachable else 2


def _report_remains(remains: Remains, store: str) -> bool:
    """Say what could not be deleted, and return whether that is nothing."""
    if remains.is_in_log:
        _LOGGER.error(
            f"their texts may still be in the log of SQLite ({store}/store.sqlite-wal), since another process reads "
            f"what was before: end that process, and then call `finetune feedback check {store}`."
        )
    if remains.audio_files:
        _LOGGER.error(
            f"{remains.audio_files:,} files of audio can't be deleted now: call `finetune feedback check {store}` when "
            "their place can be reached."
        )
    return not remains.is_in_log and not remains.audio_files


def _check(options: argparse.Namespace) -> int:
    with open_store(options) as store:
        who = read_who(options)
        is_whole = _report_remains(store.complete_erasure(who), options.store)
        found, deleted = store.check_audio(who, options.delete_orphans)
    print(f"{deleted:,} audio files without an utterance and {found.unfinished:,} unfinished ones are deleted.")
    if left := len(found.orphans) - deleted:
        _LOGGER.error(
            f"{left:,} audio files have no utterance of this store: if no other store has them, they can be "
            "deleted with --delete-orphans."
        )
    if found.lost:
        _LOGGER.error(
            f"{len(found.lost):,} utterances have lost their audio: restore it from a backup. The first is "
            f"{found.lost[0]}."
        )
    return 0 if is_whole and not left and not found.lost else 2
