"""What a file is read as: by its name and its content together, and asked where they disagree."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from tests.disks.shelf import MIB, Shelf, contents
from tests.noise import noise
from tests.oracles import qemu
from tests.sources.loops import loop
from vdbackup.disks.contents import Decision, UnclearFormat, decide
from vdbackup.disks.formats import create_disk
from vdbackup.disks.host_file import HostFile
from vdbackup.errors import DiskError, UsageError

SIZE = 2 * MIB
OURS = {"vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "qcow2": "qcow2"}
"""Our formats, and QEMU's names of them."""
_MADE: dict[tuple[str, tuple[str, ...]], bytes] = {}
"""What `disk_of` has made already: each takes a process."""
RAW_NAMES = [".img", ".raw", ".dd", ".bin", ".iso", ".IMG"]


def disk_of(folder: Path, disk_format: str, *options: str) -> bytes:
    """What QEMU writes of a small disk."""
    if (disk_format, options) not in _MADE:
        raw, made = folder / "made.raw", folder / "made"
        raw.write_bytes(bytes(65536) + noise(SIZE - 65536, 1))
        command = ["qemu-img", "convert", "-f", "raw", "-O", disk_format, *options, raw, made]
        subprocess.run(command, check=True)
        _MADE[disk_format, options] = made.read_bytes()
        made.unlink()
        raw.unlink()
    return _MADE[disk_format, options]


def tarred(data: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("disk.vmdk")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


def zipped(data: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("disk.img", data)
    return archive.getvalue()


PLAIN = noise(3 * 65536, 2)
SESPARSE = struct.pack("<QQ", 0xCAFEBABE, 0x200000001) + PLAIN
CONTAINERS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    ".vdi": ("VDI", lambda folder: disk_of(folder, "vdi")),
    ".qed": ("QED", lambda folder: disk_of(folder, "qed")),
    ".hdd": ("Parallels", lambda folder: disk_of(folder, "parallels")),
    ".qcow": ("first QCOW format", lambda folder: disk_of(folder, "qcow")),
    "-sesparse.vmdk": ("seSparse", lambda _: SESPARSE),
    ".ova": ("tar archive", lambda _: tarred(PLAIN)),
    ".img.gz": ("gzip", lambda _: gzip.compress(PLAIN)),
    ".img.xz": ("xz", lambda _: lzma.compress(PLAIN)),
    ".img.bz2": ("bzip2", lambda _: bz2.compress(PLAIN)),
    ".img.zst": ("Zstandard", lambda _: zstandard.compress(PLAIN)),
    ".zip": ("ZIP", lambda _: zipped(PLAIN)),
}  # fmt: skip
"""By the suffix they have: what is said of them, and how they are made."""


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("suffix", ["own", ".img", ".raw", ".vmdk", ".qcow2", ""])
def test_a_container_that_is_not_read_is_named_whatever_it_is_called(tmp_path, kind, suffix):
    words, make = CONTAINERS[kind]
    path = tmp_path / f"disk{kind if suffix == 'own' else suffix}"
    path.write_bytes(make(tmp_path))
    with pytest.raises(UnclearFormat, match=words) as refusal:
        decide(path)
    assert refusal.value.choices == ("raw",)
    assert refusal.value.advice
    assert decide(path, "raw") == Decision("raw")


@pytest.mark.parametrize("disk_format", OURS)
class TestOurFormats:
    @staticmethod
    def made(folder: Path, disk_format: str, name: str) -> Path:
        (folder / name).write_bytes(disk_of(folder, OURS[disk_format]))
        return folder / name

    def test_a_disk_that_is_called_what_it_is_is_that(self, tmp_path, disk_format):
        path = self.made(tmp_path, disk_format, f"disk.{disk_format.upper()}")
        assert decide(path) == Decision(disk_format)

    @pytest.mark.parametrize("suffix", [*RAW_NAMES, ".vdi", ".gz"])
    def test_a_disk_with_the_name_of_a_raw_one_is_asked_for(self, tmp_path, disk_format, suffix):
        """Every cloud image is such a file, and so may be a raw disk whose system wrote it."""
        path = self.made(tmp_path, disk_format, f"disk{suffix}")
        with pytest.raises(UnclearFormat, match=disk_format.upper()) as question:
            decide(path)
        assert question.value.choices == (disk_format, "raw")
        assert decide(path, disk_format) == Decision(disk_format)
        assert decide(path, "raw") == Decision("raw")

    def test_a_disk_that_is_called_another_of_our_formats_is_asked_for(self, tmp_path, disk_format):
        for other in OURS.keys() - {disk_format}:
            path = self.made(tmp_path, disk_format, f"disk.{other}")
            with pytest.raises(UnclearFormat) as question:
                decide(path)
            assert question.value.choices == (disk_format, "raw")

    @pytest.mark.parametrize("name", ["disk", "disk.snapshot1", "disk.bak"])
    def test_where_the_name_says_nothing_the_content_is_believed_with_a_word(
        self, tmp_path, disk_format, name
    ):
        decision = decide(self.made(tmp_path, disk_format, name))
        assert decision.disk_format == disk_format
        assert "by its content alone" in decision.doubt

    @pytest.mark.parametrize("suffix", ["own", ".img", ""])
    def test_a_disk_whose_head_is_damaged_is_no_raw_disk(self, tmp_path, disk_format, suffix):
        """One byte of it, or its first sector: a dynamic VHD has what it says at its end, too."""
        name = f"disk{f'.{disk_format}' if suffix == 'own' else suffix}"
        path = self.made(tmp_path, disk_format, name)
        whole = path.read_bytes()
        for length in (1, 100):
            path.write_bytes(b"\xee" * length + whole[length:])
            if disk_format == "vhd":
                assert "vhd" in what_is_said(path)
            else:
                assert what_is_said(path) == ("raw",)

    def test_a_disk_of_which_nothing_is_left_but_its_name_is_refused(self, tmp_path, disk_format):
        path = tmp_path / f"disk.{disk_format}"
        for rest in (noise(MIB, 1), bytes(MIB), b"", b"x", bytes(510) + b"\x55\xaa"):
            path.write_bytes(rest)
            with pytest.raises(UnclearFormat, match="not what its name says") as refusal:
                decide(path)
            assert refusal.value.choices == ("raw",)

    @pytest.mark.usefixtures("as_root")
    def test_a_device_that_holds_one_is_asked_for(self, tmp_path, disk_format):
        """Virtual machines' disks lie on volumes as files would; a raw one's guest writes there."""
        path = self.made(tmp_path, disk_format, "device")
        with path.open("r+b") as file:
            file.truncate(-(-path.stat().st_size // 4096) * 4096)
        with loop(path) as device:
            with pytest.raises(UnclearFormat, match="device as it is") as question:
                decide(device)
            assert question.value.choices == (disk_format, "raw")
            assert decide(device, disk_format) == Decision(disk_format)
            assert decide(device, "raw") == Decision("raw")


def what_is_said(path: Path) -> tuple[str, ...]:
    """What it may be: one thing, or those that the user is asked for."""
    try:
        return (decide(path).disk_format,)
    except UnclearFormat as question:
        return question.choices


@pytest.mark.parametrize("name", ["disk.vhd", "disk.img", "disk"])
def test_a_fixed_vhd_whose_foot_is_damaged_is_no_raw_disk_by_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(disk_of(tmp_path, "vpc", "-o", "subformat=fixed"))
    assert what_is_said(path)[0] == "vhd"
    with path.open("r+b") as file:
        file.seek(-400, os.SEEK_END)
        file.write(b"damage")
    with pytest.raises(UnclearFormat) as question:  # it begins with what its guest has there
        decide(path)
    assert question.value.choices == ("raw",)


def with_gpt(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    subprocess.run(["sfdisk", "-q", path], input="label: gpt\n,,\n", text=True, check=True)
    return path


def write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(data)


def fixed_vhd(folder: Path, *options: str) -> Path:
    """Called .img: its table tells that it is a disk, so only its foot tells that it is a VHD."""
    raw, disk = with_gpt(folder / "made.raw", SIZE), folder / "disk.img"
    made = ["-o", ",".join(["subformat=fixed", *options])]
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vpc", *made, raw, disk], check=True)
    return disk


@pytest.mark.parametrize("place", [-512, -500, -440, -400])
def test_a_foot_of_a_fixed_vhd_that_is_damaged_in_one_place_is_still_seen(tmp_path, place):
    """Its cookie, its version, its sizes and its type, and its checksum."""
    disk = fixed_vhd(tmp_path)
    write(disk, place, b"damage")
    with pytest.raises(UnclearFormat, match="damaged footer") as question:
        decide(disk)
    assert question.value.choices == ("raw",)
    assert decide(disk, "raw") == decide(disk, before="raw") == Decision("raw")


@pytest.mark.parametrize("foot", [bytes(512), noise(512, 7)])
def test_where_a_foot_was_is_said_if_the_table_ends_before_it(tmp_path, foot):
    disk = fixed_vhd(tmp_path, "force_size=on")
    write(disk, -512, foot)
    assert decide(disk).disk_format == "raw"
    assert "one sector longer" in decide(disk).doubt
    assert decide(disk, before="raw") == Decision("raw")


def test_a_sector_behind_what_a_vhd_can_hold_is_said_without_a_table_that_ends_there(tmp_path):
    disk = fixed_vhd(tmp_path)  # QEMU rounds its size up to whole cylinders
    write(disk, -512, noise(512, 7))
    assert "one sector longer" in decide(disk).doubt


@pytest.mark.parametrize("size", [SIZE, SIZE + 512, SIZE + 1024, SIZE + 4096, SIZE + 100])
def test_raw_disks_of_all_sizes_end_with_their_own_last_sector(tmp_path, size):
    assert decide(with_gpt(tmp_path / "disk.img", size - size % 512)) == Decision("raw")
    os.truncate(tmp_path / "disk.img", size)
    assert decide(tmp_path / "disk.img") == Decision("raw")


LAYOUTS = [
    ("qcow2",), ("qcow2", "-o", "cluster_size=4k"), ("qcow2", "-o", "cluster_size=2M"),
    ("qcow2", "-o", "compat=0.10"), ("qcow2", "-o", "refcount_bits=1"), ("vmdk",),
    ("vmdk", "-o", "subformat=streamOptimized"),
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=" ".join)
@pytest.mark.parametrize("fill", [bytes(4096), noise(4096, 4)], ids=["zeros", "noise"])
@pytest.mark.parametrize("name", ["disk.img", "disk"])
def test_a_disk_that_lost_its_first_4_kib_is_known_by_what_it_goes_on_with(
    tmp_path, layout, fill, name
):
    path = tmp_path / name
    path.write_bytes(fill + disk_of(tmp_path, *layout)[4096:])
    with pytest.raises(UnclearFormat, match=f"goes on as a {layout[0].upper()} disk does"):
        decide(path)
    assert decide(path, before="raw") == Decision("raw")


@pytest.mark.parametrize("ours", ["vmdk", "vhdx", "qcow2"])
def test_a_layer_of_ours_that_lost_its_first_4_kib_is_no_raw_disk(tmp_path, ours):
    path = tmp_path / f"layer.{ours}"
    with closing(create_disk(path, ours, SIZE)) as disk:
        disk.write(0, memoryview(noise(MIB, 1)))
        disk.flush()
    write(path, 0, bytes(4096))
    path = path.rename(tmp_path / "layer.img")
    with pytest.raises(UnclearFormat, match="it is damaged"):
        decide(path)


def test_a_qcow2_that_lost_its_first_cluster_is_no_raw_disk(tmp_path):
    path = tmp_path / "cloud.img"
    path.write_bytes(bytes(65536) + disk_of(tmp_path, "qcow2")[65536:])
    with pytest.raises(UnclearFormat, match="goes on as a QCOW2"):
        decide(path)


def test_the_data_of_a_flat_vmdk_are_named_as_a_part_of_it(tmp_path):
    disk = tmp_path / "disk.vmdk"
    qemu.make(disk, SIZE, "vmdk", "-o", "subformat=monolithicFlat")
    with pytest.raises(UnclearFormat, match=r"Give disk\.vmdk"):
        decide(tmp_path / "disk-flat.vmdk")
    assert decide(disk) == Decision("vmdk")


DESCRIPTOR = """CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW {sectors} FLAT "data.raw" 0
"""


@pytest.mark.parametrize(
    "head",
    [
        "# Disk DescriptorFile\nversion=1\n",
        "# Disk Descriptor File\nversion=1\n",
        "#Disk Descriptor File\nversion=1\n",
        "#Disk DescriptorFile\nversion=1\n",
        "# disk descriptorfile\r\nversion=1\r\n",
        "\n\n# Disk DescriptorFile\nversion=1\n",
        "\ufeff# Disk DescriptorFile\nversion=1\n",
        "# made by hand\n# Disk DescriptorFile\nversion=1\n",
        "# made by hand\nversion=1\n",
        "version=3\n",
    ],
)
def test_a_descriptor_is_known_in_every_spelling_that_qemu_or_virtualbox_take(tmp_path, head):
    data = noise(SIZE, 3)
    (tmp_path / "data.raw").write_bytes(data)
    disk = tmp_path / "disk.vmdk"
    disk.write_text(head + DESCRIPTOR.format(sectors=SIZE // 512), newline="")
    assert decide(disk) == Decision("vmdk")
    assert contents(disk) == data
    disk.rename(tmp_path / "disk.img")
    with pytest.raises(UnclearFormat):
        decide(tmp_path / "disk.img")


FILE_SYSTEMS = [
    ["mkfs.ext4", "-q", "-F"], ["mkfs.xfs", "-q", "-f"], ["mkfs.btrfs", "-q", "-f"],
    ["mkfs.fat"], ["mkfs.ntfs", "-q", "-F", "-f"], ["mkswap", "-q"],
]  # fmt: skip


@pytest.mark.parametrize("command", FILE_SYSTEMS, ids=lambda command: command[0])
def test_a_file_system_is_a_raw_disk_whatever_the_name_says_not(tmp_path, command):
    path = tmp_path / "disk"
    path.touch(0o600)
    os.truncate(path, 400 * MIB)
    subprocess.run([*command, path], check=True, capture_output=True)
    assert decide(path) == Decision("raw")


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_a_partition_table_is_a_raw_disk_whatever_the_name_says_not(tmp_path, label):
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 8 * MIB)
    subprocess.run(["sfdisk", "-q", path], input=f"label: {label}\n,,\n", text=True, check=True)
    assert decide(path) == Decision("raw")


def test_an_empty_disk_is_a_raw_one_and_what_lost_its_first_sectors_is_not(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    assert decide(path) == Decision("raw")
    disk = disk_of(tmp_path, "qcow2")
    path.write_bytes(bytes(4096) + disk[4096:])
    with pytest.raises(UnclearFormat, match="it is damaged"):
        decide(path)


def test_what_nothing_is_known_of_is_raw_only_if_its_name_says_so(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(noise(MIB, 1))
    with pytest.raises(UnclearFormat, match="Nothing in") as question:
        decide(path)
    assert question.value.choices == ("raw",)
    for suffix in RAW_NAMES:
        named = Path(shutil.copy(path, tmp_path / f"disk{suffix}"))
        assert decide(named) == Decision("raw")


@pytest.mark.parametrize("parts", [("disk.001", "disk.002"), ("disk.raw.aa", "disk.raw.ab")])
def test_a_part_of_a_split_disk_is_no_disk_though_it_begins_as_one(tmp_path, parts):
    first, second = (tmp_path / name for name in parts)
    first.write_bytes(bytes(510) + b"\x55\xaa" + noise(MIB - 512, 1))
    assert decide(first) == Decision("raw")  # alone, it may be whole
    second.write_bytes(noise(MIB, 2))
    for part, other in ((first, second), (second, first)):
        with pytest.raises(UnclearFormat, match=f"{other.name} lies beside it") as refusal:
            decide(part)
        assert refusal.value.choices == ("raw",)
        assert decide(part, before="raw") == Decision("raw")


@pytest.mark.parametrize("disk_format", OURS)
def test_what_once_lay_on_a_disk_with_a_table_makes_no_damaged_disk_of_it(tmp_path, disk_format):
    """Where a virtual disk was copied onto a device by mistake, its rest lies there for long."""
    path = tmp_path / "disk.img"
    rest = disk_of(tmp_path, OURS[disk_format])[512:]
    path.write_bytes(bytes(510) + b"\x55\xaa" + rest + bytes(SIZE))
    assert decide(path) == Decision("raw")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODATA])
def test_what_cannot_be_read_of_a_raw_disk_is_unknown_so_that_salvage_begins(
    tmp_path, monkeypatch, number
):
    """Its head, its foot or all that is looked at: a failing disk is what salvage is for."""
    path = tmp_path / "disk.img"
    path.write_bytes(noise(MIB, 1))
    read = HostFile.read

    def fail(lost: range) -> None:
        def failing(file: HostFile, offset: int, length: int) -> bytes:
            if offset in lost:
                raise OSError(number, os.strerror(number))
            return read(file, offset, length)

        monkeypatch.setattr(HostFile, "read", failing)

    for lost in (range(1), range(MIB - 512, MIB), range(MIB)):
        fail(lost)
        assert decide(path) == Decision("raw")
    with pytest.raises(UnclearFormat):
        decide(path.rename(tmp_path / "disk"))


def test_another_error_is_none_of_the_medium(tmp_path, monkeypatch):
    path = tmp_path / "disk.img"
    path.write_bytes(noise(MIB, 1))

    def stale(_file: HostFile, _offset: int, _length: int) -> bytes:
        raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr(HostFile, "read", stale)
    with pytest.raises(OSError, match="stale"):
        decide(path)


def test_a_folder_a_pipe_and_an_unknown_format_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.img")
    for path in (tmp_path, tmp_path / "pipe.img"):
        with pytest.raises(DiskError, match="neither a file nor a block device"):
            decide(path)
    (tmp_path / "disk.img").write_bytes(bytes(512))
    with pytest.raises(UsageError, match="vdi"):
        decide(tmp_path / "disk.img", "vdi")


class TestWhatWasSaidBefore:
    """The answer of an earlier backup, where the file may be another now."""

    def test_it_answers_the_same_question(self, tmp_path):
        path = tmp_path / "disk.img"
        path.write_bytes(disk_of(tmp_path, "qcow2"))
        for answer in ("qcow2", "raw"):
            assert decide(path, before=answer) == Decision(answer)
        assert decide(path, "raw", before="qcow2") == Decision("raw")

    def test_that_it_was_raw_makes_no_raw_disk_of_a_virtual_one(self, tmp_path):
        shelf = Shelf(tmp_path, MIB)
        assert (
            decide(shelf.add("disk.vmdk", (0, noise(MIB, 1))), before="raw").disk_format == "vmdk"
        )

    def test_that_it_was_a_virtual_disk_makes_no_raw_disk_of_another(self, tmp_path):
        path = tmp_path / "disk.img"
        path.write_bytes(noise(MIB, 1))
        assert decide(path, before="qcow2") == Decision("qcow2")  # which it then has to be

    def test_it_settles_what_only_the_content_said(self, tmp_path):
        path = tmp_path / "disk"
        path.write_bytes(disk_of(tmp_path, "qcow2"))
        assert decide(path, before="qcow2") == Decision("qcow2")
        assert decide(path, before="raw") == Decision("raw")
