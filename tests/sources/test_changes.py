"""What happens to a source while it is read is noticed, wherever its data come from."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.noise import noise
from tests.oracles import qemu
from tests.sources.loops import loop, mounted, run
from tests.sources.opened import open_path
from vdbackup import cli
from vdbackup.backup import adopt, capture
from vdbackup.errors import SourceError
from vdbackup.jobs import Task
from vdbackup.repository.repository import Repository
from vdbackup.sources import device_writes
from vdbackup.sources.moment import Wanted

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repository")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(noise(SIZE, 1))
    return path


def warnings(
    repository: Repository,
    path: Path,
    meanwhile: Callable[[], object] = lambda: None,
    wanted: Wanted = Wanted.AUTO,
) -> tuple[str, ...]:
    """Back up, with something that happens after the first piece was read; what the point says."""
    happened: list[None] = []

    def report(_: object) -> None:
        if not happened:
            happened.append(None)
            meanwhile()

    with open_path(path) as source:
        plan = capture.plan(repository, source, consistency=wanted)
        result = capture.run(plan, Task(report))
    assert happened
    return result.point.warnings


def poke(path: Path, offset: int = 4 * MIB, *, durable: bool = False) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        file.write(b"another sector".ljust(512))
        if durable:
            os.fsync(file.fileno())


# ------------------------------------------------------------------------------ devices


@pytest.mark.usefixtures("as_root")
def test_an_unmounted_device_that_nobody_writes_to_gives_no_warning(stack, image, repository):
    assert warnings(repository, stack.enter_context(loop(image))) == ()


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("durable", [False, True])
def test_a_write_to_an_unmounted_device_is_noticed(stack, image, repository, durable):
    device = stack.enter_context(loop(image))
    (sentence,) = warnings(repository, device, lambda: poke(device, durable=durable))
    assert f"{device} was written to during the capture (" in sentence


@pytest.mark.usefixtures("as_root")
def test_what_is_discarded_counts_as_written(stack, image, repository):
    device = stack.enter_context(loop(image))
    (sentence,) = warnings(repository, device, lambda: run("blkdiscard", "-l", "1M", device))
    assert "written to during the capture (1 MiB)" in sentence


@pytest.mark.usefixtures("as_root")
def test_a_write_just_before_the_backup_is_no_change_during_it(stack, image, repository):
    device = stack.enter_context(loop(image))
    fd = os.open(device, os.O_WRONLY)
    stack.callback(os.close, fd)
    os.pwrite(fd, noise(MIB, 2), 2 * MIB)  # in the device's cache alone
    assert warnings(repository, device) == ()
    with repository.set().open_chain(repository.set().points[0]) as chain:
        data = bytearray(MIB)
        chain.readinto(2 * MIB, memoryview(data))
    assert data == noise(MIB, 2)


@pytest.mark.usefixtures("as_root")
def test_a_write_to_the_file_behind_a_loop_device_is_noticed(stack, image, repository):
    device = stack.enter_context(loop(image))
    (sentence,) = warnings(repository, device, lambda: poke(image))
    assert "written to during the capture" in sentence


@pytest.fixture
def parted(as_root: None, stack: ExitStack, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A disk and its two partitions."""
    image = tmp_path / "parted.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    run("sfdisk", "--quiet", image, stdin="label: dos\n2048,4096\n8192,4096\n")
    disk = stack.enter_context(loop(image))
    run("partx", "--add", disk)
    stack.callback(run, "partx", "--delete", disk)
    return disk, Path(f"{disk}p1"), Path(f"{disk}p2")


@pytest.mark.parametrize(
    ("read", "written", "noticed"),
    [(0, 1, True), (1, 1, True), (1, 0, True), (1, 2, False), (2, 1, False)],
    ids=["disk by part", "part", "part by disk", "another part", "the first part"],
)
def test_a_write_counts_for_each_device_that_it_changes(parted, repository, read, written, noticed):
    def write() -> None:
        poke(parted[written], 2 * MIB - 4096 if written == 0 else 4096, durable=True)

    assert bool(warnings(repository, parted[read], write)) == noticed


@pytest.mark.usefixtures("as_root")
def test_where_the_kernel_counts_nothing_a_point_says_that(stack, image, repository):
    device = stack.enter_context(loop(image))
    counts = Path(f"/sys/block/{device.name}/queue/iostats")
    counts.write_text("0")
    stack.callback(counts.write_text, "1")
    (sentence,) = warnings(repository, device)
    assert "cannot be told" in sentence


def test_a_write_that_is_under_way_counts(tmp_path, monkeypatch):
    """As the kernel would show it: its count follows when the write is done."""
    folder = tmp_path / "0:0"
    folder.mkdir()
    (folder / "stat").write_text("1 0 8 0 5 0 40 0 1 0 0 0 0 0 0 0 0\n")
    (folder / "inflight").write_text("       0        0\n")
    monkeypatch.setattr(device_writes, "SYS_BLOCK", tmp_path)
    writes = device_writes.DeviceWrites(tmp_path)
    assert writes.since() == 0
    (folder / "inflight").write_text("       0        1\n")
    assert writes.since() == 512
    (folder / "stat").write_text("1 0 8 0 5 0 48 0 1 0 0 0 0 0 0 0 0\n")
    assert writes.since() == 8 * 512


@pytest.mark.usefixtures("as_root")
def test_of_a_mounted_device_it_is_said_whether_it_was_written_to(stack, image, repository):
    """Where it is not frozen; how that is: backup/in_use/test_in_use.py."""
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    device = stack.enter_context(loop(image))
    folder = stack.enter_context(mounted(device, image.parent / "mount"))
    (sentence,) = warnings(repository, device, wanted=Wanted.AS_IS)
    assert f"mounted at {folder}), but nothing was written to it" in sentence

    def write() -> None:
        (folder / "new").write_bytes(noise(MIB, 2))
        os.sync()

    (sentence,) = warnings(repository, device, write, Wanted.AS_IS)
    assert f"mounted at {folder}), and written to (1" in sentence
    assert "may be incomplete" in sentence


@pytest.mark.usefixtures("as_root")
def test_a_device_that_is_mounted_for_reading_alone_is_as_good_as_unmounted(
    stack, image, repository
):
    run("mkfs.ext4", "-q", "-F", image)
    device = stack.enter_context(loop(image, "--read-only"))
    stack.enter_context(mounted(device, image.parent / "mount", "-o", "ro"))
    assert warnings(repository, device) == ()


# ------------------------------------------------------------------------------ files


def test_a_change_of_an_image_is_noticed_though_its_time_is_set_back(image, repository):
    def write() -> None:
        before = image.stat()
        poke(image)
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))

    (sentence,) = warnings(repository, image, write)
    assert sentence.startswith(f"{image} was written to during the capture")


def test_a_change_after_the_image_was_opened_is_noticed_though_nothing_was_read_yet(
    image, repository
):
    """What the file system stores of it is known by then: a hole that is filled is not read."""
    with image.open("r+b") as file:
        file.truncate(0)
        file.truncate(SIZE)
    with open_path(image) as source:
        poke(image)
        result = capture.run(capture.plan(repository, source), Task())
    assert "written to during the capture" in result.point.warnings[0]


def test_a_change_of_a_parent_is_noticed(tmp_path, repository):
    base, child = tmp_path / "base.qcow2", tmp_path / "child.qcow2"
    qemu.make(base, SIZE, "qcow2")
    qemu.io(base, "write -P 1 0 4M", disk_format="qcow2")
    qemu.make(child, SIZE, "qcow2", "-b", "base.qcow2", "-F", "qcow2")

    def write() -> None:
        qemu.io(base, "write -P 2 1M 1M", disk_format="qcow2")

    (sentence,) = warnings(repository, child, write)
    assert sentence.startswith(f"{base} was written to during the capture")


@pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_change_of_an_extent_is_noticed(tmp_path, repository, kind):
    disk = tmp_path / "disk.vmdk"
    qemu.make(disk, SIZE, "vmdk", "-o", f"subformat={kind}")
    qemu.io(disk, "write -P 1 0 4M")

    def write() -> None:
        qemu.io(disk, "write -P 2 1M 1M")

    said = warnings(repository, disk, write)
    (extent,) = set(tmp_path.glob("disk-*.vmdk"))
    assert any(str(extent) in sentence for sentence in said)


def test_many_changed_files_are_counted(tmp_path, repository):
    names = [f"{number}.qcow2" for number in range(8)]
    qemu.make(tmp_path / names[0], SIZE, "qcow2")
    for parent, child in itertools.pairwise(names):
        qemu.make(tmp_path / child, SIZE, "qcow2", "-b", parent, "-F", "qcow2")
    qemu.io(tmp_path / names[0], "write -P 1 0 4M", disk_format="qcow2")

    def touch() -> None:
        for name in names:
            os.utime(tmp_path / name)

    (sentence,) = warnings(repository, tmp_path / names[-1], touch)
    assert "and 3 more were written to" in sentence


# ------------------------------------------------------------- other programs that hold it open


@pytest.mark.parametrize("disk_format", ["qcow2", "vmdk", "vhdx", "vpc", "raw"])
def test_an_image_that_qemu_may_write_to_is_said_to_lack_what_it_holds_back(
    tmp_path, repository, disk_format, capfd
):
    disk = tmp_path / f"disk.{'vhd' if disk_format == 'vpc' else disk_format}"
    qemu.make(disk, SIZE, disk_format)
    qemu.io(disk, "write -P 1 0 1M", disk_format=disk_format)
    with qemu.opened(disk, disk_format=disk_format):
        assert cli.main(["backup", str(disk), "-r", str(repository.path)]) == 3
    said = capfd.readouterr().err
    assert f"{disk} is open for writing in qemu-io (process" in said
    assert "is missing in this point" in said
    assert cli.main(["backup", str(disk), "-r", str(repository.path)]) == 0


def test_an_image_that_qemu_only_reads_is_backed_up_without_a_word(tmp_path, repository):
    disk = tmp_path / "disk.qcow2"
    qemu.make(disk, SIZE, "qcow2")
    qemu.io(disk, "write -P 1 0 1M", disk_format="qcow2")
    with qemu.opened(disk, "-r", disk_format="qcow2"):
        assert warnings(repository, disk) == ()


def test_a_program_that_takes_no_lock_and_is_gone_before_the_end_is_named(image, repository):
    """As VirtualBox has its disks open."""
    with ExitStack() as holding:
        file = holding.enter_context(image.open("ab"))
        holding.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file))
        with open_path(image) as source:
            holding.close()
            plan = capture.plan(repository, source)
            (sentence,) = capture.run(plan, Task()).point.warnings
    assert f"{image} is open for writing in cat (process" in sentence


def test_a_chain_that_changes_while_it_is_adopted_is_refused_and_leaves_nothing(
    tmp_path, repository
):
    disk = tmp_path / "disk.qcow2"
    qemu.make(disk, SIZE, "qcow2")
    qemu.io(disk, "write -P 1 0 4M", disk_format="qcow2")
    with open_path(disk) as source:
        plan = adopt.plan(repository, source)
        qemu.io(disk, "write -P 2 0 1M", disk_format="qcow2")
        with pytest.raises(SourceError, match="was written to") as error:
            adopt.run(plan, Task())
    assert error.value.advice
    assert repository.names() == []
