"""Entries into a store, each checked first; the same import again adds nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sqlalchemy import select

from finetune.audio.waveforms import AudioError, Recording, fault_as_reason
from finetune.errors import UserError
from finetune.feedback.imports.contents import Content, read_content
from finetune.feedback.imports.entries import MAX_NAME, Entry, LeftOut
from finetune.feedback.records import Hypothesis, NewUtterance, Review, normalize
from finetune.feedback.schema import UTTERANCES
from finetune.feedback.store import Store
from finetune.feedback.writable_letters import require_writable

# Reasons with more names than this are shortened; `--rejected` has all of them.
_SHOWN_NAMES = 10

Listen = Callable[[Content], Hypothesis]
"""What a model writes of audio; raises AudioError."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On which terms entries come in: who imports, the consent where the source has no place for it, and the alphabet.

    `letters` are those that texts may have, None for any. `listen` adds what a model writes to those without it.
    """

    who: str
    consent: str | None = None
    letters: frozenset[str] | None = None
    listen: Listen | None = None


@dataclass
class Tally:
    """What became of rows: the new ones, those that the store had before, and those left out."""

    new: int = 0
    known: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """All rows."""
        return self.new + self.known + len(self.left_out)

    def summarise(self) -> str:
        """One line on all rows."""
        known = f", {self.known:,} known before" if self.known else ""
        left_out = f", {len(self.left_out):,} left out" if self.left_out else ""
        return f"{self.rows:,} rows: {self.new:,} new{known}{left_out}"

    def list_reasons(self) -> list[str]:
        """One line for each reason: how many rows have it, and their names."""
        counts = Counter(each.reason for each in self.left_out)
        names: dict[str, list[str]] = {}
        for each in self.left_out:
            names.setdefault(each.reason, []).append(each.name)
        return [f"{reason}: {_shorten(names[reason])}" for reason, _ in counts.most_common()]


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    if len(names) == 1:
        return shown
    others = f" and {len(names) - _SHOWN_NAMES:,} others" if len(names) > _SHOWN_NAMES else ""
    return f"{len(names):,} rows: {shown}{others}"


def add_entries(store: Store, entries: Iterable[Entry | LeftOut], terms: Terms) -> Tally:
    """Add all entries that can be used; raises UserError where the store fails.

    An entry without audio that can be decoded, without consent, or with a text that can't be used, is left out. A text
    that its reviewer gave before is not added again, even where the reviewer changed it since.
    """
    tally, reader = Tally(), _Reader()
    for entry in entries:
        if isinstance(entry, LeftOut):
            tally.left_out.append(entry)
            continue
        try:
            with fault_as_reason():
                _check(entry, terms)
                content = reader.read(entry.recording)
                hypothesis = entry.hypothesis or (terms.listen(content) if terms.listen else None)
        except AudioError as error:
            tally.left_out.append(LeftOut(entry.name, str(error)))
            continue
        if _add(store, entry, content, hypothesis, terms, tally):
            tally.new += 1
        else:
            tally.known += 1
    return tally


class _Reader:
    """Reads recordings; the last one is kept, since several reviewers of one come after another."""

    def __init__(self) -> None:
        self._last: tuple[Recording, Content] | None = None

    def read(self, recording: Recording) -> Content:
        if self._last is None or self._last[0] != recording:
            self._last = recording, read_content(recording)
        return self._last[1]


def check_text(text: str, letters: frozenset[str] | None) -> None:
    """Raise UserError for a text that a store or a model can't write."""
    if not text.strip():
        raise UserError("no text")
    _require_characters("text", text)
    if letters is not None:
        require_writable(text, letters)


def _require_characters(what: str, text: str) -> None:
    """Raise UserError for what no database can write."""
    if "\0" in text or text != _replace_halves(text):
        raise UserError(f"its {what} has half a character or a null character: write it again")


def _replace_halves(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _check(entry: Entry, terms: Terms) -> None:
    model = entry.hypothesis.model if entry.hypothesis else None
    for what, value in {"consent": entry.consent, "licence": entry.licence, "model": model}.items():
        _require_characters(what, value or "")
    if not ((terms.consent if entry.consent is None else entry.consent) or "").strip():
        raise AudioError("no consent: nobody may use it")
    if entry.text is None and entry.hypothesis is None and terms.listen is None:
        raise AudioError("no text")
    if entry.text is not None:
        check_text(entry.text, terms.letters)
    if entry.hypothesis is not None:
        check_text(f"{entry.hypothesis.text}.", None)
    if entry.reviewer is not None and (len(entry.reviewer) > MAX_NAME or not entry.reviewer.isprintable()):
        raise AudioError(f"its annotator is {entry.reviewer[:80]!r}; expected a name of up to {MAX_NAME} characters")


def _add(
    store: Store, entry: Entry, content: Content, hypothesis: Hypothesis | None, terms: Terms, tally: Tally
) -> bool:
    """Add an entry; returns whether anything of it was new."""
    number = _find(store, content.audio)
    reviewer = entry.reviewer or terms.who
    is_new = number is None
    if number is None:
        new = NewUtterance(
            audio=content.audio,
            suffix=content.suffix,
            seconds=content.seconds,
            source=_replace_halves(entry.name).replace("\0", "?"),
            consent=entry.consent or terms.consent or "",
            speaker=entry.speaker,
            domain=entry.domain or "default",
            licence=entry.licence,
            hypothesis=hypothesis,
        )
        number = store.add(new, terms.who, entry.text if reviewer == terms.who else None).id
        if reviewer == terms.who:
            return True
    else:
        is_new = store.renew_consent(number, entry.consent or terms.consent or "", terms.who)
    known = store.get(number)
    if hypothesis is not None and hypothesis.model not in {each.model for each in known.hypotheses}:
        store.add_hypothesis(number, hypothesis)
        is_new = True
    if entry.text is None:
        return is_new
    text = normalize(entry.text)
    given = [each.text for each in known.reviews if each.reviewer == reviewer]
    if text in given:
        return is_new
    receipt = store.review(number, Review(reviewer=reviewer, action="edit", text=text))
    if receipt.note:
        tally.notes.append(receipt.note)
    return True


def _find(store: Store, audio: bytes) -> int | None:
    digest = hashlib.sha256(audio).hexdigest()
    with store.database.read() as connection:
        number: int | None = connection.execute(select(UTTERANCES.c.id).where(UTTERANCES.c.digest == digest)).scalar()
        return number
