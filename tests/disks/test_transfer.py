"""The one loop: everything is moved once, in order for nobody, and it ends as it should."""

from __future__ import annotations

import os
import signal
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.noise import noise
from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import Int64s, Ranges, total
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.one_file import neighbouring_units
from vdbackup.disks.transfer import CHUNK, THREADS, chunks, each, transfer, write_blocks
from vdbackup.errors import Cancelled
from vdbackup.jobs import CancelToken, Progress, Task, silent

MIB = 1 << 20


def ranges(*pairs: tuple[int, int]) -> Ranges:
    return np.array(pairs, np.int64).reshape(-1, 2)


class Copy:
    """A read and a consume that move bytes from one array to another, and notes who called."""

    def __init__(self, size: int) -> None:
        self.data = np.random.default_rng(1).integers(1, 256, size, np.uint8)
        self.copy = np.zeros(size, np.uint8)
        self.reports: list[Progress] = []
        self.cancel = CancelToken()

    def read(self, offset: int, view: memoryview) -> None:
        view[:] = memoryview(self.data)[offset : offset + len(view)]

    def consume(self, offset: int, view: memoryview) -> None:
        memoryview(self.copy)[offset : offset + len(view)] = view

    def run(self, wanted: Ranges, **replaced) -> None:
        parts = {
            "read": each(self.read),
            "consume": each(self.consume),
            "report": self.reports.append,
        }
        parts |= replaced
        task = Task(parts.pop("report"), self.cancel)
        transfer(wanted, phase="Test", task=task, **parts)


GAPS = st.integers(1, 2 * CHUNK)
LENGTHS = st.integers(1, CHUNK // 4) | st.integers(1, 3 * CHUNK)


@given(st.lists(st.tuples(GAPS, LENGTHS), max_size=8))
def test_chunks_tile_the_ranges_in_pieces_that_end_at_multiples_of_their_size(gaps_and_lengths):
    pairs, at = [], 0
    for gap, length in gaps_and_lengths:
        pairs.append((at + gap, length))
        at += gap + length
    found = list(chunks(ranges(*pairs), CHUNK))
    assert all(total(chunk) <= CHUNK for chunk in found)
    assert all(total(a) + b[0, 1] > CHUNK for a, b in pairwise(found)), "there was room for more"
    pieces = [(start, length) for chunk in found for start, length in chunk.tolist()]
    assert all(length > 0 and start // CHUNK == (start + length - 1) // CHUNK
               for start, length in pieces)  # fmt: skip
    joined: list[tuple[int, int]] = []
    for start, length in pieces:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    assert joined == pairs


def test_every_byte_of_the_ranges_is_moved_and_no_other():
    job = Copy(11 * MIB)
    job.run(ranges((512, 9 * MIB), (10 * MIB, MIB - 7)))
    wanted = np.zeros_like(job.data)
    for start, length in ((512, 9 * MIB), (10 * MIB, MIB - 7)):
        wanted[start : start + length] = job.data[start : start + length]
    assert np.array_equal(job.copy, wanted)


def test_progress_only_grows_and_ends_at_all_of_it():
    job = Copy(20 * MIB)
    job.run(ranges((0, 20 * MIB)))
    done = [progress.done for progress in job.reports]
    assert done == sorted(set(done))
    assert done[-1] == 20 * MIB
    assert {(progress.phase, progress.total) for progress in job.reports} == {("Test", 20 * MIB)}


def test_progress_is_reported_by_one_thread_at_a_time():
    job = Copy(64 * MIB)
    inside = threading.Lock()

    def report(_: Progress) -> None:
        assert inside.acquire(blocking=False)
        inside.release()

    job.run(ranges((0, 64 * MIB)), report=report)


def test_nothing_to_move_is_no_trouble():
    job = Copy(1)
    job.run(ranges())
    assert job.reports == []


def test_several_threads_work_at_once_and_are_gone_afterwards():
    job = Copy(THREADS * CHUNK)
    meeting = threading.Barrier(THREADS)
    job.run(
        ranges((0, THREADS * CHUNK)),
        consume=each(lambda offset, view: (meeting.wait(20), job.consume(offset, view))),
    )
    assert np.array_equal(job.copy, job.data)
    assert [t.name for t in threading.enumerate() if t.name == "transfer"] == []


@pytest.mark.parametrize("part", ["read", "consume"])
def test_an_error_of_a_worker_is_raised_and_stops_the_others(part):
    job = Copy(64 * MIB)
    calls = []

    def fails(offset: int, view: memoryview) -> None:
        calls.append(offset)
        raise ValueError(f"at {offset}")

    with pytest.raises(ValueError, match="at "):
        job.run(ranges((0, 64 * MIB)), **{part: each(fails)})
    assert len(calls) <= THREADS
    assert [t.name for t in threading.enumerate() if t.name == "transfer"] == []


def test_an_error_of_whoever_reads_the_progress_is_raised():
    with pytest.raises(ZeroDivisionError):
        Copy(64 * MIB).run(ranges((0, 64 * MIB)), report=lambda _: 1 // 0)


@pytest.mark.parametrize("times", [1, 2, 20])
def test_ctrl_c_is_raised_after_the_last_thread_has_ended(times: int):
    """Else the caller closes and removes what a thread still writes to."""
    job = Copy(2 * CHUNK)
    returned, taken = threading.Event(), threading.Barrier(2)
    wrote_in_time: list[bool] = []

    def consume(offset: int, view: memoryview) -> None:
        taken.wait(20)
        if threading.current_thread() is threading.main_thread():
            return
        for _ in range(times):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        wrote_in_time.append(not returned.wait(0.2))
        job.consume(offset, view)

    with pytest.raises(KeyboardInterrupt):
        job.run(ranges((0, 2 * CHUNK)), consume=each(consume))
    returned.set()
    assert all(wrote_in_time)
    assert wrote_in_time
    assert [t.name for t in threading.enumerate() if t.name == "transfer"] == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_threads_that_cannot_be_had_are_an_error_that_leaves_no_other(
    monkeypatch: pytest.MonkeyPatch,
):
    job, usual, started = Copy(64 * MIB), threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        usual(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        job.run(ranges((0, 64 * MIB)))
    assert not started[0].is_alive()


def test_a_write_to_full_storage_is_raised_as_that():
    """The traceback still holds the buffer, which must not get in the error's way."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            Copy(8 * MIB).run(
                ranges((0, 8 * MIB)),
                consume=lambda _, view: HostFile(Path("/dev/full"), full).write(0, view),
            )
    finally:
        os.close(full)


def test_a_cancelled_transfer_moves_nothing():
    job = Copy(8 * MIB)
    job.cancel.cancel()
    with pytest.raises(Cancelled):
        job.run(ranges((0, 8 * MIB)))
    assert not job.copy.any()


def test_a_cancel_is_obeyed_before_the_next_chunk():
    job = Copy(64 * MIB)
    with pytest.raises(Cancelled):
        job.run(ranges((0, 64 * MIB)), report=lambda _: job.cancel.cancel())
    assert np.count_nonzero(job.copy) <= (1 + THREADS) * CHUNK


class Recorder:
    """A disk that notes what is asked of it."""

    def __init__(self, unit: int = UNIT) -> None:
        self.unit = unit
        self.written: dict[int, bytes] = {}
        self.zeros: list[tuple[int, int]] = []

    def write_units(self, units: Int64s, view: memoryview, at: Int64s) -> None:
        for unit, first, end in neighbouring_units(units, at, len(view), self.unit):
            self.written[unit] = bytes(view[first:end])

    def zero(self, offset: int, length: int) -> None:
        self.zeros.append((offset, length))


def test_neighbouring_blocks_are_written_in_one_call_and_zeros_are_not_written():
    disk = Recorder()
    wanted = np.array([True, True, True, False, True, True])
    zero = np.array([False, False, True, True, True, False])
    view = memoryview(noise(5 * UNIT + 500, 1))
    write_blocks(disk, np.arange(8, 14), view, wanted, zero)
    assert disk.written == {8: view[: 2 * UNIT], 13: view[5 * UNIT :]}
    assert sorted(disk.zeros) == [(10 * UNIT, UNIT), (12 * UNIT, UNIT)]


def test_blocks_that_only_the_buffer_has_side_by_side_are_written_apart():
    disk = Recorder()
    blocks = np.array([3, 4, 9, 10, 20])
    zero = np.array([False, False, False, True, False])
    view = memoryview(noise(4 * UNIT + 500, 1))
    write_blocks(disk, blocks, view, np.ones(5, bool), zero)
    written = {3: view[: 2 * UNIT], 9: view[2 * UNIT : 3 * UNIT], 20: view[4 * UNIT :]}
    assert disk.written == written
    assert disk.zeros == [(10 * UNIT, UNIT)]


def test_blocks_are_written_to_a_disk_of_smaller_units_as_all_that_they_have():
    """The last one is short: it has no more units than its bytes are."""
    disk = Recorder(UNIT // 4)
    view = memoryview(noise(2 * UNIT + UNIT // 4 + 500, 1))
    zero = np.array([False, True, False])
    write_blocks(disk, np.array([3, 4, 9]), view, np.ones(3, bool), zero)
    assert disk.written == {12: view[:UNIT], 36: view[2 * UNIT :]}
    assert disk.zeros == [(4 * UNIT, UNIT)]


def test_many_small_ranges_are_moved_in_few_calls():
    job, calls = Copy(MIB), []
    job.run(
        ranges(*((at, 64) for at in range(0, MIB, 256))),
        consume=lambda pieces, view: calls.append((len(pieces), bytes(view))),
    )
    [(count, moved)] = calls
    assert count == MIB // 256
    assert moved == job.data.reshape(-1, 256)[:, :64].tobytes()


def test_a_short_last_block_of_zeros_is_zeroed_only_to_its_end():
    disk = Recorder()
    view = memoryview(bytes(UNIT + 500))
    write_blocks(disk, np.arange(2), view, *np.ones((2, 2), bool))
    assert not disk.written
    assert disk.zeros == [(0, UNIT + 500)]


def test_threads_share_a_file_without_mixing_their_chunks(tmp_path: Path):
    job = Copy(16 * MIB + 123)
    with (tmp_path / "copy").open("w+b") as file:
        job.run(
            ranges((0, 16 * MIB + 123)),
            consume=each(HostFile(tmp_path / "copy", file.fileno()).write),
            report=silent,
        )
    assert (tmp_path / "copy").read_bytes() == job.data.tobytes()
