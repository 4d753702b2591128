"""A log of writes: replayed at any write it is the disk; what is torn of it costs only the end."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.disks.write_log import lies, logs
from tests.disks.write_log.logs import SIZE, Entry, mark
from tests.noise import noise
from vdbackup.disks.chain import Chain
from vdbackup.disks.raw import RawDisk
from vdbackup.disks.write_log.entries import Entries
from vdbackup.disks.write_log.fold import fold
from vdbackup.disks.write_log.index import Index, IndexWriter
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.disks.write_log.structs import ENTRY, HEADER
from vdbackup.errors import DiskError, DiskFormatError

SECTORS = 64
"""Of the small disks that Hypothesis writes to."""
SECOND = 1_000_000_000


def state(log: WriteLog, parent: Path, write: int) -> bytes:
    """All bytes of a disk after a write, read as every chain is."""
    with Chain([RawDisk.open(parent), log.disk(write)]) as chain:
        read = bytearray(chain.size)
        chain.readinto(0, memoryview(read))
        return bytes(read)


def new_in(entries: Entries, seen: int = 0) -> bytes:
    """The headers behind those that have been noted."""
    return entries.headers[seen:].tobytes()


def as_entry(sector: int, length: int, kind: int, seed: int) -> Entry:
    length = min(length, SECTORS - sector)
    flags = (0, 0, 0, 1, 2, 4, 5, 16)[kind]
    data = b"" if flags & 4 else noise(512 * length, seed)
    return Entry(sector, length, flags, data)


WRITES = st.builds(
    as_entry, st.integers(0, SECTORS - 1), st.integers(1, SECTORS), st.integers(0, 7),
    st.integers(0, 1 << 20),
)  # fmt: skip
ENTRIES = st.lists(
    st.one_of(WRITES, st.just(Entry(flags=1)), st.builds(mark, st.binary(min_size=1, max_size=40))),
    max_size=30,
)


# ------------------------------------------------------------------------------------ replayed


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_what_qemu_logged_is_replayed_to_the_byte(tmp_path: Path, sector_size: int) -> None:
    disk, before, log = tmp_path / "disk", tmp_path / "before", tmp_path / "log"
    choose = random.Random(sector_size)
    disk.write_bytes(choose.randbytes(SIZE))
    before.write_bytes(disk.read_bytes())
    commands = []
    for number in range(200):
        offset = choose.randrange(SIZE // 512 - 64) * 512
        length = choose.randint(1, 64) * 512
        pattern = f"write -P {number % 251} {offset} {length}"
        commands.append(
            choose.choice([pattern, pattern, f"write -z {offset} {length}", "flush", "flush"])
        )
    logs.by_qemu(disk, log, *commands, sector_size=sector_size)
    found = WriteLog.read(log, SIZE)
    # of zeros that begin or end within a sector of the log QEMU makes several writes
    assert found.writes >= sum(each.startswith("write") for each in commands)
    assert state(found, before, found.writes) == disk.read_bytes()
    assert state(found, before, 0) == before.read_bytes()


def test_what_qemu_discards_reads_as_zeros(tmp_path: Path) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.write_bytes(b"\1" * SIZE)
    before = tmp_path / "before"
    before.write_bytes(disk.read_bytes())
    logs.by_qemu(disk, log, "discard 64k 128k", "write -P 9 128k 4k", "flush")
    found = WriteLog.read(log, SIZE)
    assert state(found, before, found.writes) == disk.read_bytes()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, data=st.data())
def test_any_writes_are_at_any_of_them_what_replaying_makes(
    tmp_path: Path, entries: Sequence[Entry], data: st.DataObject
) -> None:
    parent = tmp_path / "parent"
    parent.write_bytes(noise(512 * SECTORS, 1))
    log = WriteLog.read(logs.make(tmp_path / "log", entries), 512 * SECTORS)
    changing = [at for at, each in enumerate(entries) if each.sectors and not each.flags & 8]
    assert log.writes == len(changing)
    write = data.draw(st.integers(0, log.writes))
    upto = changing[write - 1] + 1 if write else 0
    assert state(log, parent, write) == logs.replay(entries[:upto], parent.read_bytes())


def test_writes_over_all_of_the_disk_cost_no_more_than_small_ones() -> None:
    count, sectors = 200_000, 1 << 31
    headers = np.zeros(count, ENTRY)
    headers["sector"] = np.arange(count)
    headers["sectors"] = sectors - 2 * np.arange(count)  # each within all before it
    headers["flags"] = 4
    entries = Entries.of(headers.tobytes(), 512, 1 << 40, sectors * 512)
    assert len(entries) == count
    flat = fold(entries, count, sectors * 512)
    assert len(flat.starts) == 1  # all of it was discarded, and neighbours are joined


# ---------------------------------------------------------------------------------- flushes


def test_moments_are_offered_where_a_flush_came_between_two_writes(tmp_path: Path) -> None:
    write, flush = Entry(1, 1, 0, bytes(512)), Entry(flags=1)
    entries = [flush, write, write, flush, flush, write, mark(b"point1"), flush, write]
    log = WriteLog.read(logs.make(tmp_path / "log", entries), SIZE)
    assert log.flushes.tolist() == [0, 2, 3]
    assert [log.is_flushed(each) for each in range(5)] == [True, False, True, True, False]
    assert log.marks() == [(3, "point1")]


def test_data_of_a_flush_itself_need_not_have_been_written_out(tmp_path: Path) -> None:
    write, flush = Entry(1, 1, 0, bytes(512)), Entry(2, 1, 1, bytes(512))
    log = WriteLog.read(logs.make(tmp_path / "log", [write, flush]), SIZE)
    assert (log.writes, log.flushes.tolist()) == (2, [1])


# ------------------------------------------------------------------------------------ damage


def test_what_was_written_behind_the_super_blocks_count_is_found(tmp_path: Path) -> None:
    entries = [Entry(at, 1, 0, bytes([at]) * 512) for at in range(1, 9)]
    log = WriteLog.read(logs.make(tmp_path / "log", entries, count=3), SIZE)
    assert (log.writes, log.named) == (8, 3)


def test_a_count_that_is_too_high_costs_nothing(tmp_path: Path) -> None:
    entries = [Entry(at, 1, 0, bytes(512)) for at in range(1, 4)]
    log = WriteLog.read(logs.make(tmp_path / "log", entries, count=1 << 63), SIZE)
    assert (log.writes, log.named) == (3, 3)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, data=st.data())
def test_a_log_that_is_cut_off_loses_only_its_end(
    tmp_path: Path, entries: Sequence[Entry], data: st.DataObject
) -> None:
    whole = logs.make(tmp_path / "log", entries)
    length = data.draw(st.integers(512, whole.stat().st_size))
    end, kept = 512, 0
    for each in entries:
        end += 512 + (0 if each.flags & 12 else len(each.data))
        kept += end <= length
    with whole.open("r+b") as file:
        file.truncate(length)
    assert len(WriteLog.read(whole, 512 * SECTORS).entries) == kept


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, data=st.data())
def test_whatever_stands_in_a_log_is_read_or_refused(
    tmp_path: Path, entries: Sequence[Entry], data: st.DataObject
) -> None:
    path = logs.make(tmp_path / "log", entries)
    text = bytearray(path.read_bytes())
    headers, at = [0], 512
    for each in entries:
        headers.append(at)
        at += 512 + (0 if each.flags & 12 else len(each.data))
    lies = st.sampled_from([0, 1, 2, 8, 255, 512, 1 << 31, 1 << 55, 1 << 63, (1 << 64) - 1])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(headers)) + 8 * data.draw(st.integers(0, 3))
        text[place : place + 8] = data.draw(lies).to_bytes(8, "little")
    path.write_bytes(text)
    try:
        log = WriteLog.read(path, 512 * SECTORS)
    except DiskError:
        return
    log.marks()
    with closing(log.disk(log.writes)) as disk:
        own = disk.block_map()
        assert own.size == 512 * SECTORS
        ends = (own.hosts + own.lengths)[own.layers >= 0]
        assert ends.max(initial=0) <= len(text)


@pytest.mark.parametrize("head", [b"", b"\0" * 512, b"QFI\xfb" * 200])
def test_what_is_no_log_is_refused(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(head)
    with pytest.raises(DiskFormatError, match="log of writes"):
        WriteLog.read(path, SIZE)


def test_sectors_of_no_disk_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(logs.super_block(0, 2048))
    with pytest.raises(DiskFormatError, match="2048"):
        WriteLog.read(path, SIZE)


# ------------------------------------------------------------------------------------- times


def test_a_write_came_between_two_looks(tmp_path: Path) -> None:
    write, flush = Entry(1, 1, 0, bytes(512)), Entry(flags=1)
    path, notes = tmp_path / "log", tmp_path / "index"
    seen = 0
    with closing(IndexWriter(notes)) as writer:
        for second, count in ((1, 2), (2, 2), (5, 6)):
            found = WriteLog.read(logs.make(path, [write, flush] * (count // 2)), SIZE)
            writer.note(new_in(found.entries, seen), (second - 1) * SECOND, second * SECOND)
            seen = count
    log = WriteLog.read(logs.make(path, [write, flush] * 4), SIZE, notes)
    assert [log.time_of(each) for each in (1, 2, 3)] == [
        (0, SECOND), (4 * SECOND, 5 * SECOND), (4 * SECOND, 5 * SECOND),
    ]  # fmt: skip
    assert log.time_of(4) == (0, 0), "nobody has seen it come"
    assert [log.newest_flush(each * SECOND) for each in (0, 1, 4, 5, 9)] == [None, 1, 1, 3, 3]


def test_notes_may_be_cut_off_anywhere(tmp_path: Path) -> None:
    write = Entry(1, 1, 0, bytes(512))
    path, notes = logs.make(tmp_path / "log", [write] * 6), tmp_path / "index"
    whole = WriteLog.read(path, SIZE).entries
    with closing(IndexWriter(notes)) as writer:
        for first, count in ((0, 2), (2, 3), (3, 6)):
            writer.note(whole.headers[first:count].tobytes(), count, count + 1)
    text = notes.read_bytes()
    for length in range(len(text)):
        notes.write_bytes(text[:length])
        index = Index.read(notes)
        assert index.headers == whole.headers[: len(index.headers) // 32].tobytes()
        assert len(WriteLog.read(path, SIZE, notes).entries) == 6
        with closing(IndexWriter(notes)) as writer:
            writer.note(new_in(whole, len(writer.headers) // 32), 10, 11)
        assert Index.read(notes).headers == whole.headers.tobytes()


@pytest.mark.parametrize("at", [0, 8, 20, 33, 40, 70])
def test_notes_that_were_altered_are_not_believed(tmp_path: Path, at: int) -> None:
    path, notes = logs.make(tmp_path / "log", [Entry(1, 1, 0, bytes(512))] * 2), tmp_path / "index"
    with closing(IndexWriter(notes)) as writer:
        writer.note(new_in(WriteLog.read(path, SIZE).entries), 1, 2)
    text = bytearray(notes.read_bytes())
    text[at] ^= 0xFF
    notes.write_bytes(text)
    assert not len(Index.read(notes).ends)
    assert WriteLog.read(path, SIZE, notes).writes == 2


def test_notes_as_long_as_no_memory_are_read_as_far_as_they_are_notes(tmp_path: Path) -> None:
    path = tmp_path / "log.index"
    with closing(IndexWriter(path)) as writer:
        writer.note(bytes(range(32)), 1, 2)
    os.truncate(path, 4 << 40)
    assert Index.read(path).count == 1
    with path.open("r+b") as file:
        file.seek(8 + 28 + 32)
        file.write(struct.pack("<QQQ", 2, 3, 1 << 36))
    assert Index.read(path).count == 1
    with path.open("r+b") as file:
        file.write(b"no notes")
    assert Index.read(path).count == 0


def test_notes_belong_to_no_shorter_log(tmp_path: Path) -> None:
    entries = [Entry(1, 1, 0, bytes(512))] * 4
    path, notes = logs.make(tmp_path / "log", entries), tmp_path / "index"
    with closing(IndexWriter(notes)) as writer:
        writer.note(new_in(WriteLog.read(path, SIZE).entries), 1, 2)
    logs.make(path, entries[:2])
    assert WriteLog.read(path, SIZE, notes).writes == 2


def test_a_header_is_as_long_as_it_is() -> None:
    assert ENTRY.itemsize == HEADER.size == 32


# -------------------------------------------------------------------------------------- lies


@pytest.mark.parametrize("thinned", [False, True], ids=["whole", "thinned"])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_lies_a_log_and_its_notes_tell_no_wrong_moment_is_offered(
    tmp_path: Path, seed: int, *, thinned: bool
) -> None:
    """The short form of `python -m tests.fuzz write-log`."""
    subject, choose = lies.Subject(tmp_path, thinned=thinned), random.Random(seed)
    subject.tell([])
    for _ in range(60):
        told = []
        for _ in range(choose.randint(1, 4)):
            name = choose.choice(["log", "index"])
            lie = choose.choice(
                [b"1", choose.randbytes(8), (1 << choose.randrange(64)).to_bytes(8, "little"),
                 bytes(8), bytes([choose.randrange(256)])]
            )  # fmt: skip
            told.append((name, choose.choice(subject.structures[name]), lie))
        if choose.random() < 0.2:
            name = choose.choice(["log", "index"])
            told.append((name, choose.randrange(len(subject.sound[name])), b""))
        with contextlib.suppress(DiskError):
            subject.tell(told)
