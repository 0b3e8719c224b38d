"""What `finetune feedback add` and `finetune feedback import` read, and what they say of it."""

from __future__ import annotations

import argparse
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.audio.waveforms import AudioError, Recording, fault_as_reason
from finetune.data.folders import read_table
from finetune.data.manifests import PROBLEM, SUFFIXES, format_csv
from finetune.errors import UserError
from finetune.feedback.imports.adding import Listen, Terms, add_entries
from finetune.feedback.imports.contents import Content
from finetune.feedback.imports.entries import Entry, LeftOut, take_metadata
from finetune.feedback.imports.found_audio import FoundAudio
from finetune.feedback.imports.label_studio import read_export, read_tasks
from finetune.feedback.imports.labeling import Layout, infer_layout, read_layout
from finetune.feedback.imports.tables import read_folder, read_rows
from finetune.feedback.writable_letters import load_letters
from finetune.files import write_text
from finetune.resources.terminal import escape_controls

if TYPE_CHECKING:
    from finetune.feedback.records import Hypothesis
    from finetune.feedback.store import Store

_LOGGER = logging.getLogger(__name__)


def add_recording(store: Store, options: argparse.Namespace, who: str) -> int:
    """Add a recording with its text; returns the exit code. Raises UserError for one that can't be used."""
    if options.text is None and options.model is None:
        raise UserError("There is nothing to keep of the recording: give its text with --text, or a --model.")
    given = {"speaker": options.speaker, "domain": options.domain, "licence": options.licence}
    try:
        metadata = take_metadata({**given, "consent": options.consent}, has_consent=True)
    except AudioError as error:
        raise UserError(f"{options.audio}: {error}.") from error
    entry = Entry(name=options.audio, recording=Recording(options.audio, None), text=options.text, **metadata)
    terms = Terms(who=who, letters=load_alphabet(options), listen=_load_listener(options.model))
    tally = add_entries(store, [entry], terms)
    if tally.left_out:
        raise UserError(f"{options.audio}: {tally.left_out[0].reason}.")
    for note in tally.notes:
        _LOGGER.warning(note)
    print("added" if tally.new else "nothing new: the store has it already")
    return 0


def import_paths(store: Store, options: argparse.Namespace, who: str) -> int:
    """Add all rows of all paths; returns the exit code: 0, or 2 if a row was left out. Raises UserError.

    Nothing is added where a path can't be read, or where a row has no place for its consent and none is given.
    """
    entries = [entry for path in options.paths for entry in _read(Path(path), options)]
    without = next((each for each in entries if isinstance(each, Entry) and each.consent is None), None)
    if without is not None and not (options.consent or "").strip():
        raise UserError(f"{without.name} has no column consent: say with --consent WHO/WHAT who allowed its use.")
    terms = Terms(
        who=who, consent=options.consent, letters=load_alphabet(options), listen=_load_listener(options.model)
    )
    tally = add_entries(store, entries, terms)
    store.log(who, "import", ", ".join(options.paths), new=tally.new, known=tally.known, left_out=len(tally.left_out))
    for note in tally.notes:
        _LOGGER.warning(note)
    for line in tally.list_reasons():
        _LOGGER.error(f"left out: {escape_controls(line, one_line=True)}")
    if options.rejected:
        rows = [("name", "reason"), *((each.name, each.reason) for each in tally.left_out)]
        write_text(Path(options.rejected), format_csv(rows))
    print(tally.summarise())
    return 2 if tally.left_out else 0


def load_alphabet(options: argparse.Namespace) -> frozenset[str] | None:
    """The letters of --alphabet-of, or of the store's champion; None without both. Raises UserError."""
    champion = Path(options.store) / "models" / "champion"
    model = options.alphabet_of or (str(champion) if champion.exists() else None)
    return None if model is None else load_letters(model)


def _read(path: Path, options: argparse.Namespace) -> Sequence[Entry | LeftOut]:
    if not path.exists():
        raise UserError(f"There is no {path}: expected a folder, a CSV or JSONL file, or an export of Label Studio.")
    if path.is_dir():
        tables = [file for suffix in SUFFIXES if (file := path / f"metadata{suffix}").is_file()]
        if len(tables) > 1:
            raise UserError(f"{path} has {' and '.join(map(str, tables))}: expected one; give the one that is meant.")
        return list(_read_rows(tables[0], options) if tables else read_folder(path))
    tasks = read_tasks(path) if path.suffix.lower() == ".json" else None
    if tasks is not None:
        root = Path(options.audio_root) if options.audio_root else None
        return list(read_export(tasks, path, FoundAudio(root), _find_layout(tasks, path, options)))
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} can't be imported: expected a folder, or a file that ends in {', '.join(SUFFIXES)}.")
    return list(_read_rows(path, options))


def _find_layout(tasks: Sequence[object], path: Path, options: argparse.Namespace) -> Layout:
    if options.config:
        return read_layout(Path(options.config), options.text_name)
    return infer_layout(tasks, path, options.text_name)


def _read_rows(file: Path, options: argparse.Namespace) -> Iterator[Entry | LeftOut]:
    return read_rows(read_table(file), file, PROBLEM, options.allow_outside)


def _load_listener(model: str | None) -> Listen | None:
    """What a model writes of audio; None without a model. Raises UserError if it can't be loaded."""
    if model is None:
        return None
    from finetune.feedback.hypotheses import describe_transcript
    from finetune.files import hash_folder
    from finetune.inference.transcriber import Transcriber
    from finetune.resources.repositories import fetch_model

    transcriber = Transcriber(model)
    digest = hash_folder(fetch_model(model))

    @fault_as_reason()
    def listen(content: Content) -> Hypothesis:
        return describe_transcript(transcriber.transcribe(io.BytesIO(content.audio)), digest)

    return listen
