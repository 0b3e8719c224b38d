"""Segments of longer recordings: the times in a manifest's columns, whatever their names, as `start` and `end`."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from finetune.audio.recordings import PAST_THE_END_SECONDS, AudioError
from finetune.data.manifests import PROBLEM, Row

_STARTS = ("start", "start_time", "begin", "begin_time", "offset")
_ENDS = ("end", "end_time")
_LENGTHS = ("duration",)


class TimeColumns(NamedTuple):
    """The names of a table's columns with times, by their meaning."""

    starts: tuple[str, ...]
    ends: tuple[str, ...]
    lengths: tuple[str, ...]


def find_time_columns(names: Iterable[str]) -> TimeColumns:
    """The columns with times among a table's columns; an exact name precedes one in another case."""
    names = sorted(names)
    found = {name.lower(): name for name in names} | {name: name for name in names}
    return TimeColumns(*(tuple(found[name] for name in usual if name in found) for usual in (_STARTS, _ENDS, _LENGTHS)))


def place_in_time(row: Row, columns: TimeColumns) -> None:
    """Add the `start` and `end` in seconds of a row's segment, or a `PROBLEM` where its times leave one open.

    `duration` is that of the segment, or beside an end that of the recording, and without a start that of the whole
    file. Where the end is empty, or the duration is -1 as in NeMo's manifests, the segment goes on to the recording's.
    """
    if not columns.starts and not columns.ends:
        return
    try:
        start, end = _read_times(row, columns)
    except AudioError as error:
        row.setdefault(PROBLEM, str(error))
    else:
        row["start"], row["end"] = ("" if seconds is None else str(seconds) for seconds in (start, end))


def _read_times(row: Row, columns: TimeColumns) -> tuple[float | None, float | None]:
    start, end, length = (_read_one(row, names) for names in columns)
    if start is not None and not columns.ends and not columns.lengths:
        raise AudioError(f"incomplete segment: a start at {start:g} s, and no column end or duration")
    if end is not None and not columns.starts:
        raise AudioError(f"incomplete segment: an end at {end:g} s, and no column start or offset")
    if length is None or length == -1:
        return start, end
    if end is None:
        return start, (start or 0.0) + length
    of_segment = abs(end - (start or 0.0) - length) <= PAST_THE_END_SECONDS
    if not of_segment and length < end - PAST_THE_END_SECONDS:
        raise AudioError(f"inconsistent segment: from {start or 0.0:g} to {end:g} s, with a duration of {length:g} s")
    return start, end


def _read_one(row: Row, names: tuple[str, ...]) -> float | None:
    """The time in columns of one meaning, in which it is the same; None if all are empty."""
    times = {name: _read_seconds(name, row[name]) for name in names if row.get(name) not in (None, "")}
    if times and max(times.values()) - min(times.values()) > PAST_THE_END_SECONDS:
        shown = " and ".join(f"its {name} is {seconds:g} s" for name, seconds in times.items())
        raise AudioError(f"inconsistent segment: {shown}")
    return next(iter(times.values()), None)


def _read_seconds(name: str, cell: Any) -> float:
    try:
        seconds = float(cell)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise AudioError(f"impossible segment: its {name} is '{str(cell)[:80]}', not a number of seconds")
    return seconds
