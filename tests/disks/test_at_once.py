"""Many reads and writes under way at once: the same bytes, and nothing under way afterwards."""

from __future__ import annotations

import errno
import os
import platform
import random
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.storage import storage
from tests.noise import noise
from vdbackup.disks import at_once, transfer
from vdbackup.disks.at_once import DEPTH, Part
from vdbackup.disks.host_file import HostFile
from vdbackup.errors import DiskFormatError

BLOCK = 64 << 10
MIB = 1 << 20


@pytest.fixture(params=["together", "one by one", "refused"])
def way(request, monkeypatch):
    """With the system's calls, where it has none that are known, and where it lets nobody."""
    monkeypatch.setattr(at_once, "_of_thread", threading.local())
    if request.param == "one by one":
        monkeypatch.setattr("platform.machine", lambda: "another")
    if request.param == "refused":  # by the kernel: of such a number it knows no call
        monkeypatch.setattr(at_once, "_NUMBERS", {platform.machine(): (4095, 1, 2, 3)})
        assert not at_once.possible()
    return request.param


def scattered(count: int) -> list[Part]:
    """Every third block of a file, in another order than those of a buffer."""
    return [(3 * at * BLOCK, (count - at - 1) * BLOCK, (count - at) * BLOCK) for at in range(count)]


def buffer(size: int) -> memoryview:
    """One as a transfer has it."""
    return transfer.new_buffer(size)


def written_durably(file: HostFile, parts: list[Part], view: memoryview) -> None:
    file.write_parts(parts, view)
    file.sync()


def test_what_is_written_at_once_is_what_a_plain_reader_sees(tmp_path, way):
    path, view, parts = tmp_path / "file", buffer(2 * DEPTH * BLOCK), scattered(2 * DEPTH)
    view[:] = noise(len(view), 1)
    with closing(HostFile.create(path)) as file:
        written_durably(file, parts, view)
    content = path.read_bytes()
    assert all(content[at : at + BLOCK] == view[first:end] for at, first, end in parts)
    assert not any(content[at + BLOCK : at + 3 * BLOCK].strip(b"\0") for at, _, _ in parts)


def test_what_does_not_lie_as_the_storage_wants_it_is_moved_all_the_same(tmp_path, way):
    path, view = tmp_path / "file", buffer(4 * BLOCK)
    view[:] = noise(len(view), 2)
    parts = [(512, 0, BLOCK), (2 * BLOCK, BLOCK, BLOCK + 100), (3 * BLOCK, 2 * BLOCK, 3 * BLOCK)]
    parts.append((5 * BLOCK, 3 * BLOCK + 17, 4 * BLOCK))
    with closing(HostFile.create(path)) as file:
        written_durably(file, parts, view)
        content = path.read_bytes()
        file.read_past_cache()
        again = buffer(4 * BLOCK)
        file.read_parts(parts, again)
    for at, first, end in parts:
        assert content[at : at + end - first] == view[first:end] == again[first:end]


def test_a_file_that_ends_before_is_said_to_be_too_short(tmp_path, way):
    path = tmp_path / "file"
    path.write_bytes(noise(4 * BLOCK + 100, 3))
    view = buffer(4 * BLOCK)
    with closing(HostFile.open(path)) as file:
        file.read_past_cache()
        file.read_parts([(0, 0, BLOCK), (2 * BLOCK, BLOCK, 2 * BLOCK)], view)
        assert (
            view[: 2 * BLOCK]
            == noise(4 * BLOCK, 3)[:BLOCK] + path.read_bytes()[2 * BLOCK : 3 * BLOCK]
        )
        with pytest.raises(DiskFormatError, match="shorter"):
            file.read_parts([(0, 0, BLOCK), (4 * BLOCK, BLOCK, 2 * BLOCK)], view)


@pytest.mark.parametrize("seed", range(8))
def test_what_the_kernel_takes_or_ends_in_part_is_moved_all_the_same(tmp_path, monkeypatch, seed):
    """It takes none or some of what it is given, is interrupted, and ends one after the other."""
    monkeypatch.setattr(at_once, "_of_thread", threading.local())
    queue = at_once._own_queue()
    drawn, real, trouble = random.Random(seed), queue._system.call, []

    def call(number: int, *arguments: int) -> int:
        context, count = arguments[0], arguments[1] if len(arguments) > 1 else 0
        chance = drawn.random()
        if number == queue._system.submit and chance < 0.5:
            trouble.append("submit")
            taken = drawn.randint(0, count)
            return real(number, context, taken, arguments[2]) if taken else -errno.EAGAIN
        if number == queue._system.getevents and chance < 0.6:
            trouble.append("getevents")
            return -errno.EINTR if chance < 0.3 else real(number, context, 1, 1, *arguments[3:])
        return real(number, *arguments)

    monkeypatch.setattr(queue, "_system", replace(queue._system, call=call))
    path, view, parts = tmp_path / "file", buffer(3 * DEPTH * BLOCK), scattered(3 * DEPTH)
    view[:] = noise(len(view), seed)
    with closing(HostFile.create(path)) as file:
        written_durably(file, parts, view)
        content = path.read_bytes()
        assert all(content[at : at + BLOCK] == view[first:end] for at, first, end in parts)
        file.read_past_cache()
        again = buffer(len(view))
        file.read_parts(parts, again)
    assert again == view
    assert trouble


@pytest.mark.usefixtures("as_root")
def test_storage_that_is_full_says_so(tmp_path, way):
    with storage(tmp_path / "small", "ext4") as small:
        view = buffer(64 * MIB)
        with closing(HostFile.create(small.folder / "file")) as file:
            file.grow(3 * len(view))
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                written_durably(file, scattered(len(view) // BLOCK), view)


def test_nothing_is_under_way_once_it_was_interrupted(tmp_path, monkeypatch):
    """The memory is the caller's again, and the next call is as good as the first."""
    monkeypatch.setattr(at_once, "_of_thread", threading.local())
    path, view = tmp_path / "file", buffer(DEPTH * BLOCK)
    path.write_bytes(noise(3 * DEPTH * BLOCK, 4))
    move_some = at_once._Queue._move_some

    def interrupted(*arguments: object) -> None:
        move_some(*arguments)
        raise KeyboardInterrupt

    with closing(HostFile.open(path)) as file:
        file.read_past_cache()
        with monkeypatch.context() as patch:
            patch.setattr(at_once._Queue, "_move_some", interrupted)
            with pytest.raises(KeyboardInterrupt):
                file.read_parts(scattered(DEPTH), view)
        assert not hasattr(at_once._of_thread, "queue")
        file.read_parts(scattered(DEPTH), view)
    content = path.read_bytes()
    assert all(content[at : at + BLOCK] == view[a:b] for at, a, b in scattered(DEPTH))


def test_a_thread_that_ends_gives_back_what_it_had_of_the_kernel(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(noise(3 * DEPTH * BLOCK, 5))
    found: list[int] = []

    def read() -> None:
        view = buffer(DEPTH * BLOCK)
        with closing(HostFile.open(path)) as file:
            file.read_past_cache()
            file.read_parts(scattered(DEPTH), view)
        found.append(at_once._own_queue()._context)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    mapped = Path("/proc/self/maps").read_text()
    assert f"{found[0]:x}-" not in mapped  # the ring that the kernel puts its answers in
