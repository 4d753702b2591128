"""What is read while nobody writes is read again from memory, afterwards."""

from __future__ import annotations

import errno
import time

import pytest

from tests.backup.lab import noise
from vdbackup.agent import last_set
from vdbackup.agent.freezing import Freeze
from vdbackup.agent.last_set import LastSet

pytestmark = pytest.mark.usefixtures("as_root")

UNIT = 64 << 10
DISK = noise(64 * UNIT, 1)
STRETCHES = [(UNIT, 20 * UNIT), (30 * UNIT, UNIT), (63 * UNIT, UNIT - 512)]


def read(offset: int, view: memoryview) -> None:
    view[:] = DISK[offset : offset + len(view)]


def never_ends() -> Freeze:
    return Freeze(time.monotonic() + 3600)


def test_all_of_it_is_there_and_nothing_else():
    with LastSet() as last:
        assert last.fill(STRETCHES, read, never_ends())
        for start, length in STRETCHES:
            for at in range(start, start + length, 512):
                view = memoryview(bytearray(512))
                last.readinto(at, view)
                assert view == DISK[at : at + 512]
        for at, length in ((0, 512), (UNIT - 512, 1024), (21 * UNIT - 512, 1024), (64 * UNIT, 512)):
            with pytest.raises(ValueError, match="not read"):
                last.readinto(at, memoryview(bytearray(length)))


def test_it_holds_no_more_than_it_has_memory_for(monkeypatch):
    monkeypatch.setattr(last_set, "MAX_SIZE", 22 * UNIT - 512)
    with LastSet() as last:
        assert last.room == 22 * UNIT - 512
        assert not last.fill([(0, 22 * UNIT)], read, never_ends())
        assert last.fill(STRETCHES, read, never_ends())


def test_what_takes_too_long_is_not_the_last():
    with LastSet() as last:
        moment = Freeze(time.monotonic())
        assert not last.fill(STRETCHES, read, moment)
        with pytest.raises(ValueError, match="not read"):
            last.readinto(UNIT, memoryview(bytearray(512)))


def test_what_cannot_be_read_is_left_to_another_round():
    def fails(offset: int, view: memoryview) -> None:
        raise OSError(errno.EIO, "a bad sector")

    with LastSet() as last:
        assert not last.fill(STRETCHES, fails, never_ends())
        with pytest.raises(ValueError, match="not read"):
            last.readinto(UNIT, memoryview(bytearray(512)))
