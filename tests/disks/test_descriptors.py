"""More files than a process may have open: each is read as if it were open all the time."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path

import pytest

from vdbackup.disks import descriptors
from vdbackup.disks.host_file import HostFile
from vdbackup.errors import DiskError

FEW = 3


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """No more than three files are kept open."""
    monkeypatch.setattr(descriptors, "MAX_OPEN", FEW)


def made(folder: Path, count: int) -> list[HostFile]:
    """Open files that hold their own numbers."""
    for number in range(count):
        (folder / str(number)).write_bytes(b"%08d" % number * 20_000)
    return [HostFile.open(folder / str(number)) for number in range(count)]


def open_in(folder: Path) -> int:
    """How many files in the folder this process has open."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{each}").startswith(f"{folder}/")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture
def files(tmp_path):
    files = made(tmp_path, 10)
    yield files
    for file in files:
        file.close()


def test_all_are_read_and_few_are_open(files, tmp_path):
    for _ in range(2):
        for number, file in enumerate(files):
            assert file.read(8 * number, 8) == b"%08d" % number
            assert file.size == 160_000
            assert open_in(tmp_path) <= FEW


def test_what_is_closed_stays_closed(files, tmp_path):
    for file in files:
        file.close()
    assert open_in(tmp_path) == 0
    with pytest.raises(ValueError, match="closed"):
        files[0].read(0, 1)


def test_several_threads_read_all_of_them_at_once(files, tmp_path):
    wrong = []

    def read(step: int) -> None:
        for turn in range(400):
            number = turn * step % len(files)
            if files[number].read(8 * turn, 8) != b"%08d" % number:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(step,)) for step in (1, 3, 7, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert open_in(tmp_path) <= FEW


def test_a_process_without_a_free_descriptor_gives_some_up(files, tmp_path, monkeypatch):
    monkeypatch.setattr(descriptors, "MAX_OPEN", 1000)
    for file in files:
        file.read(0, 1)
    real, refused = os.open, []

    def full(path, *arguments, **options):
        if open_in(tmp_path) and path == str(tmp_path / "0"):
            refused.append(path)
            raise OSError(24, "Too many open files", path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", full)
    with HostFile.open(tmp_path / "0")._descriptor as fd:
        os.fstat(fd)
    assert refused
    descriptors.POOL.shed()


def test_a_file_that_rests_late_is_opened_again_where_no_descriptor_is_left(tmp_path):
    other, host = made(tmp_path, 2)
    file = host._descriptor
    descriptors.POOL.forget(file)  # another thread has chosen it to rest, ...
    with file:  # ... this one uses it before it does, ...
        pass
    file.rest()
    limits, free = resource.getrlimit(resource.RLIMIT_NOFILE), os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    read = []
    reader = threading.Thread(target=lambda: read.append(host.read(0, 8)), daemon=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        reader.start()
        reader.join(200)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert read == [b"00000001"]
    host.close()
    other.close()


@pytest.fixture
def failing_close(tmp_path, monkeypatch):
    """close(2) fails for the files of this test, as NFS and FUSE let it: they are closed then."""
    real, numbers = os.close, []

    def close(fd):
        ours = os.readlink(f"/proc/self/fd/{fd}").startswith(f"{tmp_path}/")
        real(fd)
        if ours:
            numbers.append(fd)
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        yield numbers


def test_a_number_that_could_not_be_closed_well_is_not_closed_again(tmp_path, failing_close):
    (file,) = made(tmp_path, 1)
    descriptors.POOL.shed()
    (number,) = failing_close
    with open(os.devnull, "rb") as stranger:
        assert stranger.fileno() == number
        file.close()
        os.fstat(number)


def test_what_is_written_to_is_closed_once_and_says_that_it_failed(tmp_path, failing_close):
    file = HostFile.create(tmp_path / "a")
    with pytest.raises(OSError, match="Input/output error"):
        file.close()
    assert open_in(tmp_path) == 0
    file.close()


def put_back(path: Path, data: bytes, like: os.stat_result) -> None:
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(like.st_atime_ns, like.st_mtime_ns))


@pytest.mark.parametrize("change", ["longer", "later", "other beginning", "other identity", "gone"])
def test_a_file_that_is_another_one_by_then_is_refused(files, tmp_path, change):
    descriptors.POOL.shed()
    path, before = tmp_path / "0", (tmp_path / "0").stat()
    data = bytearray(path.read_bytes())
    if change == "gone":
        path.unlink()
    elif change == "later":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    else:
        data[66_000 if change == "other identity" else 100] ^= 1
        put_back(path, data + b"." * (change == "longer"), before)
    with pytest.raises(DiskError, match="was written to, moved or replaced"):
        files[0].read(0, 8)
    assert files[0].was_changed
    assert files[1].read(0, 8) == b"00000001"


def test_a_file_with_another_number_is_the_same_where_all_else_is(files, tmp_path):
    descriptors.POOL.shed()
    path = tmp_path / "0"
    put_back(path, path.read_bytes(), path.stat())
    assert files[0].read(8, 8) == b"00000000"


def test_a_relative_path_is_followed_from_where_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here").write_bytes(b"x" * 100)
    file = HostFile.open(Path("here"))
    monkeypatch.chdir("/")
    descriptors.POOL.shed()
    assert file.read(0, 1) == b"x"
    file.close()


def test_what_is_written_to_stays_open(tmp_path):
    (tmp_path / "a").touch()
    file = HostFile.open(tmp_path / "a", writable=True)
    descriptors.POOL.shed()
    (tmp_path / "a").rename(tmp_path / "b")
    file.write(0, memoryview(b"still here"))
    file.close()
    assert (tmp_path / "b").read_bytes() == b"still here"
