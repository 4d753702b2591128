"""What is read while nobody writes is read again from memory, afterwards."""

from __future__ import annotations

import errno
import os
import time

import pytest

from tests.noise import noise
from vdbackup.agent import last_set
from vdbackup.agent.freezing import Freeze
from vdbackup.agent.last_set import LastSet, Read
from vdbackup.errors import Unreadable

pytestmark = pytest.mark.usefixtures("as_root")

UNIT = 64 << 10
DISK = noise(64 * UNIT, 1)
STRETCHES = [(UNIT, 20 * UNIT), (30 * UNIT, UNIT), (63 * UNIT, UNIT - 512)]


def read(offset: int, view: memoryview) -> None:
    view[:] = DISK[offset : offset + len(view)]


def never_ends() -> Freeze:
    return Freeze(time.monotonic() + 3600)


def test_all_of_it_is_there_and_nothing_else():
    with LastSet(512) as last:
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
    with LastSet(512) as last:
        assert last.room == 22 * UNIT - 512
        assert not last.fill([(0, 22 * UNIT)], read, never_ends())
        assert last.fill(STRETCHES, read, never_ends())


def test_what_takes_too_long_is_not_the_last():
    with LastSet(512) as last:
        moment = Freeze(time.monotonic())
        assert not last.fill(STRETCHES, read, moment)
        with pytest.raises(ValueError, match="not read"):
            last.readinto(UNIT, memoryview(bytearray(512)))


def bad_at(*sectors: int) -> Read:
    def reads(offset: int, view: memoryview) -> None:
        if any(offset <= sector * 512 < offset + len(view) for sector in sectors):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        read(offset, view)

    return reads


def test_of_what_cannot_be_read_no_more_is_lost_than_its_sectors():
    bad = (UNIT // 512 + 3, 30 * UNIT // 512)
    with LastSet(512) as last:
        assert last.fill(STRETCHES, bad_at(*bad), never_ends())
        for start, length in STRETCHES:
            for at in range(start, start + length, 512):
                view = memoryview(bytearray(512))
                if at // 512 in bad:
                    with pytest.raises(Unreadable):
                        last.readinto(at, view)
                else:
                    last.readinto(at, view)
                    assert view == DISK[at : at + 512]


def test_bad_sectors_that_take_too_long_are_left_to_another_round(monkeypatch):
    later = time.monotonic() + 3000

    def slow(offset: int, view: memoryview) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: later)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with LastSet(512) as last:
        assert not last.fill(STRETCHES, slow, never_ends())


def test_a_device_that_is_gone_is_no_bad_sector():
    def gone(offset: int, view: memoryview) -> None:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))

    with LastSet(512) as last, pytest.raises(OSError, match="No such device"):
        last.fill(STRETCHES, gone, never_ends())
