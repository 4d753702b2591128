"""A mounted device is backed up as it is on the storage, not as some cache remembers it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.agent.trackers import own_trackers
from tests.noise import noise
from tests.sources.loops import loop, mounted, run
from tests.sources.opened import open_path
from vdbackup.agent import stacking
from vdbackup.backup import capture
from vdbackup.jobs import Task
from vdbackup.recovery import restore
from vdbackup.repository.repository import Repository

pytestmark = pytest.mark.usefixtures("as_root")

MIB = 1 << 20
SYSTEMS = {
    "ext4": (48, ("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0")),
    "xfs": (304, ("mkfs.xfs", "-q")),
    "btrfs": (128, ("mkfs.btrfs", "-q", "--mixed")),
}
"""MiB that each needs at least, and what makes it."""
OLD, NEW, SECOND = (noise(3 * MIB, seed) for seed in range(3))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        stack.enter_context(own_trackers(tmp_path / "bpf", longest=512 * MIB))
        yield stack


@pytest.fixture(params=SYSTEMS)
def image(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A disk image that holds an empty file system."""
    size, make = SYSTEMS[request.param]
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(size * MIB)
    run(*make, image)
    return image


def write(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write over a file in place, as a database does."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.pwrite(fd, data, 0)
    if durable:
        os.fsync(fd)
    os.close(fd)


def back_up(repository: Repository, path: Path) -> capture.CaptureResult:
    with open_path(path) as source:
        return capture.run(capture.plan(repository, source), Task())


def files_in(repository: Repository, point: str, tmp_path: Path) -> dict[str, bytes]:
    """What the kernel finds in a restored point."""
    raw, backup_set = tmp_path / f"{point}.raw", repository.set()
    restore.run(
        restore.plan(
            restore.RestoreRequest(repository, backup_set.name, backup_set.point(point).id, raw)
        ),
        Task(),
    )
    # Btrfs refuses a second device with the same UUID as one that is mounted. So does XFS, where
    # the mounts of a process with a namespace of its own still hold the first
    with raw.open("rb") as file:
        options = "loop,nouuid" if file.read(4) == b"XFSB" else "loop"
    with mounted(raw, tmp_path / "restored", "-o", options) as folder:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_later_backup_of_a_mounted_device_holds_what_was_written_between(stack, image, tmp_path):
    device = stack.enter_context(loop(image))
    repository = Repository.create(tmp_path / "repository")
    with mounted(device, tmp_path / "mount") as folder:
        write(folder / "f", OLD)
        os.sync()
        first = back_up(repository, device).point
        write(folder / "f", NEW)
        write(folder / "second", SECOND)
        os.sync()
        second = back_up(repository, device).point
    assert files_in(repository, first.id, tmp_path) == {"f": OLD}
    assert files_in(repository, second.id, tmp_path) == {"f": NEW, "second": SECOND}


def test_what_is_still_in_the_memory_of_the_file_system_is_backed_up(stack, image, tmp_path):
    device = stack.enter_context(loop(image))
    repository = Repository.create(tmp_path / "repository")
    with mounted(device, tmp_path / "mount") as folder:
        write(folder / "f", NEW, durable=False)
        point = back_up(repository, device).point
    assert files_in(repository, point.id, tmp_path) == {"f": NEW}


def test_an_image_that_is_mounted_is_backed_up_with_what_was_just_written(stack, image, tmp_path):
    device = stack.enter_context(loop(image))
    repository = Repository.create(tmp_path / "repository")
    with mounted(device, tmp_path / "mount") as folder:
        write(folder / "f", OLD, durable=False)
        first = back_up(repository, image).point
        write(folder / "f", NEW, durable=False)
        second = back_up(repository, image).point
    assert files_in(repository, first.id, tmp_path) == {"f": OLD}
    assert files_in(repository, second.id, tmp_path) == {"f": NEW}


def test_a_disk_is_read_as_the_file_system_on_its_partition_has_written_it(stack, tmp_path):
    """Each partition has a page cache of its own, and the disk another."""
    image = tmp_path / "parted.img"
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    run("sfdisk", "--quiet", image, stdin="label: dos\n2048,\n")
    disk = stack.enter_context(loop(image))
    run("partx", "--add", disk)
    stack.callback(run, "partx", "--delete", disk)
    partition = Path(f"{disk}p1")
    run("mkfs.ext4", "-q", partition)
    repository = Repository.create(tmp_path / "repository")
    with mounted(partition, tmp_path / "mount") as folder:
        write(folder / "f", OLD)
        back_up(repository, disk)
        write(folder / "f", NEW)
        back_up(repository, disk)
    raw = tmp_path / "out.raw"
    plan = restore.plan(
        restore.RestoreRequest(
            repository, repository.set().name, repository.set().points[1].id, raw
        )
    )
    restore.run(plan, Task())
    with mounted(raw, tmp_path / "restored", "-o", f"loop,offset={MIB}") as folder:
        assert (folder / "f").read_bytes() == NEW


def cached(device: Path, size: int) -> int:
    """Bytes of a device in its page cache, as mincore(2) tells without touching them."""
    with device.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as all_:
        pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
        address = ctypes.c_void_p(np.frombuffer(all_, np.uint8).__array_interface__["data"][0])
        assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(size), pages) == 0
    return mmap.PAGESIZE * sum(page & 1 for page in pages)


def test_a_backup_leaves_the_page_cache_as_it_was(stack, tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(noise(8 * MIB, 1))
    device = stack.enter_context(loop(image))
    with device.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), MIB, 2 * MIB)
        before = cached(device, 8 * MIB)
        back_up(Repository.create(tmp_path / "repository"), device)
        assert MIB <= before < 2 * MIB
        assert cached(device, 8 * MIB) == before


def test_what_is_mounted_from_a_folder_is_not_looked_at(tmp_path, monkeypatch):
    """It may lie on a share that does not answer, and has nothing to do with the source."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "36 25 0:31 / /mnt/photos rw,relatime - fuse.bindfs /net/dead/photos rw\n"
        "37 25 7:0 / /mnt/disk rw,relatime - ext4 /dev/null rw\n"
    )
    asked = []

    def stat(path, *_, **__):
        asked.append(path)
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(stacking, "_MOUNTS", mounts)
        patch.setattr(stacking, "numbers_on", lambda _: {"7:0"})
        patch.setattr(stacking.os, "stat", stat)
        where = stacking.mounts_of(tmp_path)
    assert (where, asked) == (("/mnt/disk",), ["/dev/null"])
