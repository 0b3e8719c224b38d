"""Digests of the training data, to detect changed data when a run is resumed."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

import xxhash

from finetune.data.corpus import Split, Utterance

_SHOWN_SYMBOLS = 100

# For each name a summary as text, and a digest of the whole.
Fingerprint = Mapping[str, tuple[str, str]]


def take_fingerprint(splits: Mapping[str, Split], vocabulary: Mapping[str, int]) -> dict[str, tuple[str, str]]:
    """The fingerprint of splits by their role, and of the vocabulary.

    It depends on the order of the utterances, and on the row, transcript, length, and audio name, size and segment of
    each; not on the audio itself, which would have to be read completely. For a stream it covers the first rows.
    """
    symbols = [symbol for symbol, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    more = f" and {len(symbols) - _SHOWN_SYMBOLS} more" if len(symbols) > _SHOWN_SYMBOLS else ""
    shown = f"{' '.join(symbols[:_SHOWN_SYMBOLS])}{more}"
    taken = {"vocabulary": (shown, _digest(f"{symbol!r} {vocabulary[symbol]}" for symbol in symbols))}
    for role, split in splits.items():
        shown = f"{len(split.utterances)} utterances, {split.seconds / 60:.1f} minutes"
        taken[f"{role} split"] = (shown, _digest(map(_identify, split.utterances)))
    return taken


def list_changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """The differences as texts; names that are missing in `before` are ignored."""
    changes = []
    for name, (shown, digest) in now.items():
        old_shown, old_digest = before.get(name, (shown, digest))
        if digest != old_digest:
            seen = f"was {old_shown}, is {shown}" if shown != old_shown else f"{shown} as before, but not the same"
            changes.append(f"{name}: {seen}")
    return changes


def _identify(utterance: Utterance) -> str:
    """One utterance as text; a file in a cache is identified only by its name, since caches can move."""
    place, *segment = utterance.audio_key or ("",)
    size, name = None, utterance.name
    if place:
        name = place.removeprefix(utterance.source) if place.startswith(utterance.source) else name
        with suppress(OSError, ValueError):  # A URL, or a missing file, which training reports.
            size = os.stat(place).st_size  # noqa: PTH116 (takes a tenth of the time)
    return repr((utterance.row, name, size, segment, utterance.seconds, utterance.transcript))


def _digest(parts: Iterable[str]) -> str:
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
