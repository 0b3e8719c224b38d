"""Which messages of a partition are done: the offset to commit, and what of the later ones is done already.

A recording is done when its result is acknowledged, a live session when all its results are. The offset that is
committed is that of the first message that is not done: a new owner of the partition reads from there. So that it does
not repeat what is done behind it, nor take the rest of a finished session for a new one, the commit's metadata lists
the recordings and sessions that are not done, by the offset of their first message.
"""

from __future__ import annotations

from dataclasses import dataclass

_MARK = "ft1"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
# Above these a partition is read no further, and a session is refused: the metadata has to fit into 4,096 bytes.
MAX_OPEN = 256


@dataclass(eq=False)
class Unit:
    """A recording or a live session that has begun: the offset of its first message, and what is written for it.

    `num_written` counts the final texts of a session that are acknowledged, `num_repeated` those that a previous owner
    had written: they are not written again.
    """

    offset: int
    num_written: int = 0
    num_repeated: int = 0
    unacknowledged: int = 0
    closed: bool = False  # Nothing more will be written for it.
    dropped: bool = False  # Its partition belongs to another consumer now.


class Ledger:
    """The units of one partition; used by one thread."""

    def __init__(self, position: int | None, metadata: str | None = None) -> None:
        """Continue from a committed offset and its metadata; None is the beginning."""
        self._through, self._listed = _read(position, metadata)
        self.position = position
        self.open: dict[int, Unit] = {}

    def pass_by(self, offset: int) -> None:
        """A message was read, whatever it is."""
        self.position = offset + 1

    def is_done(self, offset: int) -> bool:
        """Whether a message that belongs to no open session is done, by a previous owner."""
        return offset < self._through and offset not in self._listed

    def begin(self, offset: int) -> Unit:
        """A recording or a session begins."""
        written = self._listed.get(offset, 0)
        unit = self.open[offset] = Unit(offset, num_written=written, num_repeated=written)
        return unit

    def settle(self, unit: Unit) -> bool:
        """Forget a unit for which everything is written and acknowledged; returns whether it is one."""
        if unit.closed and not unit.unacknowledged and not unit.dropped:
            self.open.pop(unit.offset, None)
            return True
        return False

    def snapshot(self) -> tuple[int, str] | None:
        """The offset to commit and its metadata; None before any message."""
        if self.position is None:
            return None
        # What a previous owner had left open and is not read again yet is still open.
        unread = {offset: written for offset, written in self._listed.items() if offset >= self.position}
        through = max(self.position, self._through)
        left = {**unread, **{unit.offset: unit.num_written for unit in self.open.values()}}
        offset = min(left, default=through)
        parts, last = [_MARK, _encode(through - offset)], offset
        for each in sorted(left):
            parts.append(_encode(each - last) + (f".{_encode(left[each])}" if left[each] else ""))
            last = each
        return offset, " ".join(parts)


def _read(position: int | None, metadata: str | None) -> tuple[int, dict[int, int]]:
    """The offset before which all is done but the listed units, and the written texts of each of these."""
    parts = (metadata or "").split(" ")
    if position is None or len(parts) < 2 or parts[0] != _MARK:
        return 0, {}
    try:
        listed, last = {}, position
        for part in parts[2:]:
            distance, _, written = part.partition(".")
            last += int(distance, 36)
            listed[last] = int(written or "0", 36)
        return position + int(parts[1], 36), listed
    except ValueError:
        return 0, {}


def _encode(number: int) -> str:
    """A whole number in base 36."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"
