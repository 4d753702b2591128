"""Sources that are files: what is one, how large it is, and what is said of all else."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.disks.shelf import GRAIN, MIB, Shelf
from tests.noise import noise
from tests.oracles import qemu
from tests.sources.opened import open_path
from tests.sources.ordinary_user import as_an_ordinary_user, open_folder
from vdbackup.disks.contents import UnclearFormat
from vdbackup.errors import DiskError, Remedy, SourceError, VdbackupError


def contents(path: Path, said: str | None = None) -> bytes:
    with open_path(path, said=said) as source:
        data = bytearray(source.size)
        source.readinto(0, memoryview(data))
        return bytes(data)


def refused(path: Path, match: str, kind: type[VdbackupError] = SourceError) -> VdbackupError:
    with pytest.raises(kind, match=match) as refusal:
        open_path(path)
    assert refusal.value.title
    assert refusal.value.advice
    return refusal.value


def image(path: Path, size: int) -> Path:
    path.write_bytes(noise(size, 1))
    return path


@pytest.mark.parametrize("size", [512, 4096, MIB + 512])
def test_a_raw_image_is_read_as_it_is(tmp_path, size):
    path = image(tmp_path / "disk.img", size)
    assert contents(path) == path.read_bytes()


def test_a_raw_image_that_ends_within_a_sector_is_filled_up(tmp_path):
    path = image(tmp_path / "disk.img", 1000)
    assert contents(path) == path.read_bytes() + bytes(24)


def test_a_vmdk_is_the_disk_in_it(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN + 512)
    shelf.add("a.vmdk", (0, noise(2 * GRAIN, 1)))
    top = shelf.add("b.vmdk", (GRAIN, noise(GRAIN, 2)))
    assert contents(top) == shelf.raw
    with open_path(top) as source:
        assert [path.name for path in source.files] == ["a.vmdk", "b.vmdk"]
        assert source.data_ranges().tolist() == [[0, 2 * GRAIN]]


def test_an_image_that_the_user_calls_raw_is_read_as_raw_whatever_it_begins_with(tmp_path):
    """A guest could write a header into its first sector that names any file as its parent."""
    shelf = Shelf(tmp_path, MIB)
    vmdk = shelf.add("a.vmdk", (0, noise(MIB, 1)))
    for suffix in (".img", ".raw", ".dd", ".IMG"):
        copy = tmp_path / f"copy{suffix}"
        copy.write_bytes(vmdk.read_bytes())
        refused(copy, "begins as a VMDK disk does", UnclearFormat)
        assert contents(copy, "raw") == vmdk.read_bytes()
        assert contents(copy, "vmdk") == shelf.raw


def test_an_image_reached_by_a_link_is_the_same_source(tmp_path):
    path = image(tmp_path / "disk.img", 4096)
    (tmp_path / "link.img").symlink_to(path)
    with open_path(path) as source, open_path(tmp_path / "link.img") as linked:
        assert source.id == linked.id
        assert linked.path == path


def test_an_image_has_sectors_of_512_bytes_and_its_files_name(tmp_path):
    with open_path(image(tmp_path / "laptop.img", 4096)) as source:
        assert (source.sector_size, source.name, source.mounted) == (512, "laptop", ())
        assert source.trouble() == ()


@pytest.mark.parametrize(
    ("table", "end"),
    [
        ("label: dos\n2048,32768\n", 17 * MIB),
        ("label: dos\n2048,32768\n34816,32768,5\n36864,8192\n", 33 * MIB),
        ("label: gpt\n2048,32768\n34816,32768\n", 33 * MIB),
    ],
    ids=["dos", "extended", "gpt"],
)
def test_a_raw_image_that_ends_before_its_last_partition_does_is_said_to(tmp_path, table, end):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["sfdisk", "--quiet", path], input=table.encode(), check=True)
    os.truncate(path, end)
    with open_path(path) as source:
        assert source.trouble() == ()
    os.truncate(path, end - 1)  # within the last sector, which is filled up
    with open_path(path) as source:
        (sentence,) = source.trouble()
        assert sentence == (
            f"{path} ends before its partitions do: it has {end - 1:,} bytes, and its partition "
            f"table goes to byte {end:,}. What is missing there is in no backup of it."
        )


def test_what_is_not_there_is_said_not_to_be(tmp_path):
    error = refused(tmp_path / "missing.img", "There is no")
    assert error.remedy is Remedy.LIST_DEVICES
    refused(image(tmp_path / "disk.img", 512) / "below", "cannot be opened")


def test_a_folder_is_no_disk(tmp_path):
    refused(tmp_path, "is a folder")


def test_an_empty_file_is_no_disk(tmp_path):
    (tmp_path / "empty.img").touch()
    refused(tmp_path / "empty.img", "is empty")


@pytest.mark.parametrize("size", [1, 511])
def test_less_than_a_sector_is_no_disk(tmp_path, size):
    refused(image(tmp_path / "small.img", size), f"{size} bytes long, less than one sector")


def test_a_vmdk_without_any_sector_is_no_disk(tmp_path):
    shelf = Shelf(tmp_path, MIB)
    path = shelf.add("a.vmdk")
    data = bytearray(path.read_bytes())
    data[12:20] = bytes(8)  # the capacity
    path.write_bytes(data)
    refused(path, "capacity of 0", DiskError)


def test_a_pipe_and_a_character_device_are_no_disks(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither a file nor a block device")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    refused(Path("/dev/null"), "neither a file nor a block device")


def test_a_link_that_leads_in_a_circle_is_refused(tmp_path):
    (tmp_path / "loop.img").symlink_to("loop.img")
    refused(tmp_path / "loop.img", "cannot be opened")


def test_a_name_that_is_too_long_is_refused(tmp_path):
    refused(tmp_path / ("x" * 300), "cannot be opened")


def test_a_vmdk_without_its_parent_is_refused(tmp_path):
    shelf = Shelf(tmp_path, MIB)
    shelf.add("a.vmdk")
    top = shelf.add("b.vmdk")
    (tmp_path / "a.vmdk").unlink()
    refused(top, "which is missing", DiskError)


def test_a_vmdk_of_another_kind_is_refused(tmp_path):
    qemu.create(tmp_path / "a.vmdk", MIB)
    (tmp_path / "d.vmdk").write_text('# Disk DescriptorFile\nCID=1\ncreateType="vmfs"\n')
    refused(tmp_path / "d.vmdk", "damaged or is not a valid", DiskError)


def test_a_file_that_may_not_be_read_is_refused_with_what_would_allow_it():
    with open_folder() as folder:
        path = image(folder / "my disk; reboot.img", 4096)
        path.chmod(0)
        with as_an_ordinary_user():
            error = refused(path, "may not read")
    assert "setfacl -m u:" in error.advice
    assert f"'{path}'" in error.advice  # who pastes it into a shell does nothing else


def test_a_folder_that_lets_nobody_in_is_named():
    with open_folder() as folder:
        closed = folder / "closed"
        closed.mkdir()
        path = image(closed / "disk.img", 4096)
        closed.chmod(0)
        with as_an_ordinary_user():
            error = refused(path, "may not read")
        closed.chmod(0o700)
    assert f"The folder {closed} does not let you in" in error.advice


def test_a_refusal_leaves_nothing_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "empty.img").touch()
    refused(tmp_path / "empty.img", "is empty")
    refused(image(tmp_path / "small.img", 100), "less than one sector")
    refused(image(tmp_path / "small.vmdk", 100), "not what its name says", UnclearFormat)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_disk_that_turns_out_to_be_damaged_while_it_is_read_is_said_to_be_that(tmp_path):
    (tmp_path / "raw").write_bytes(noise(MIB, 1))
    disk = tmp_path / "disk.vmdk"
    command = ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized"]
    subprocess.run([*command, tmp_path / "raw", disk], check=True)
    with disk.open("r+b") as file:
        file.seek(-5000, os.SEEK_END)
        file.write(b"damage")
    with open_path(disk) as source, pytest.raises(SourceError, match="grain 15 is damaged"):
        source.readinto(0, memoryview(bytearray(MIB)))


def cached(path: Path) -> int:
    """Bytes of the file in the page cache, as util-linux sees it."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", path]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reads_leave_the_cache(path: Path) -> bool:
    """Whether this kernel, and this file system, can read without caching (RWF_DONTCACHE)."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 16):
        return False
    with path.open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(512)], 0, 0x80)
        except OSError:
            return False
    return True


def test_the_page_cache_is_left_as_it_was(tmp_path):
    path = image(tmp_path / "disk.img", 16 * MIB)
    wanted = path.read_bytes()
    forget(path)
    with path.open("rb") as file:
        file.read(MIB)
        os.posix_fadvise(file.fileno(), MIB, 0, os.POSIX_FADV_DONTNEED)  # what was read ahead
    assert (before := cached(path)) >= MIB
    assert contents(path) == wanted
    if reads_leave_the_cache(path):
        assert cached(path) == pytest.approx(before, abs=256 << 10)  # but for the first looks
    else:
        assert cached(path) >= before


@pytest.mark.parametrize(("release", "tried"), [("6.16.0", True), ("6.15.9-arch1", False)])
def test_kernels_that_could_lose_what_others_write_are_not_asked_to_leave_the_cache(
    tmp_path, monkeypatch, release, tried
):
    path, usual, flags = image(tmp_path / "disk.img", MIB), os.preadv, set()
    version = os.uname_result(("Linux", "here", release, "#1", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: version)

    def noted(fd: int, buffers: list[memoryview], offset: int, given: int = 0) -> int:
        flags.add(given)
        return usual(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", noted)
    assert contents(path) == path.read_bytes()
    assert (0x80 in flags) == tried


def test_an_image_is_read_where_the_kernel_cannot_leave_the_cache_alone(tmp_path, monkeypatch):
    path, usual, refused = image(tmp_path / "disk.img", 4 * MIB), os.preadv, []

    def older(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            refused.append(flags)
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return usual(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", older)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "here", "6.18.1", "", "")))
    assert contents(path) == path.read_bytes()
    assert len(refused) == 1, "it is tried again and again"
