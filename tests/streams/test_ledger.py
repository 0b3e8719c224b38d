"""The offset to commit, and what its metadata says of the messages behind it, for the next owner of a partition."""

import random

from finetune.streams.ledger import MAX_OPEN, Ledger


def test_the_offset_is_that_of_the_first_message_that_is_not_done() -> None:
    ledger = Ledger(None)
    assert ledger.snapshot() is None
    units = []
    for offset in (5, 6, 7):
        ledger.pass_by(offset)
        units.append(ledger.begin(offset))
    for unit in units[1:]:
        unit.closed = True
        assert ledger.settle(unit)
    assert ledger.snapshot() == (5, "ft1 3 0")
    units[0].unacknowledged = 1
    units[0].closed = True
    assert not ledger.settle(units[0])
    units[0].unacknowledged = 0
    assert ledger.settle(units[0])
    assert ledger.snapshot() == (8, "ft1 0")


def test_the_next_owner_knows_what_is_done_and_what_is_open() -> None:
    ledger = Ledger(None)
    for offset in range(100):
        ledger.pass_by(offset)
        unit = ledger.begin(offset)
        unit.num_written = 3 if offset == 40 else 0
        unit.closed = offset not in (30, 40, 77)
        ledger.settle(unit)
    offset, metadata = ledger.snapshot() or (0, "")
    assert offset == 30
    after = Ledger(offset, metadata)
    assert [each for each in range(30, 120) if not after.is_done(each)] == [30, 40, 77, *range(100, 120)]
    assert after.snapshot() == (offset, metadata)  # Before it has read anything.
    after.pass_by(30)
    assert after.begin(30).num_repeated == 0
    after.pass_by(40)
    assert after.begin(40).num_repeated == 3
    assert after.snapshot() == (offset, metadata)


def test_metadata_of_others_means_nothing() -> None:
    for metadata in (None, "", "other", "ft1", "ft1 x!", "ft1 5 z!"):
        ledger = Ledger(7, metadata)
        assert not ledger.is_done(7) and ledger.snapshot() == (7, "ft1 0")


def test_metadata_fits_into_a_commit() -> None:
    rng = random.Random(0)
    ledger, offset = Ledger(10**12), 10**12
    for _ in range(MAX_OPEN):
        offset += rng.randrange(10**5)
        ledger.pass_by(offset)
        ledger.begin(offset).num_written = rng.randrange(1000)
    assert len((ledger.snapshot() or (0, ""))[1]) < 4096
