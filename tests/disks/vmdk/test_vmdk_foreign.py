"""VMDK as others write it: what qemu-img and qemu-io made, and texts as VMware's, read by us."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import threading
import tracemalloc
import uuid
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks.shelf import GRAIN, MIB, Shelf, contents, opened, put
from tests.noise import noise
from tests.oracles import libvmdk, qemu
from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import State
from vdbackup.disks.formats import open_disk, probe
from vdbackup.disks.vmdk.disk import VmdkDisk
from vdbackup.errors import DiskError, DiskFormatError, ParentError, PartMissing, Remedy

TABLE = 32 * MIB


def converted(disk: Path) -> bytes:
    """What QEMU reads, as raw bytes."""
    raw = disk.with_suffix(".raw")
    command = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(disk), str(raw)]
    subprocess.run(command, check=True)
    return raw.read_bytes()


def made(path: Path, size: int, *options: str) -> Path:
    arguments = [part for option in options for part in ("-o", option)]
    command = ["qemu-img", "create", "-q", "-f", "vmdk", *arguments, str(path), str(size)]
    subprocess.run(command, check=True)
    return path


@pytest.mark.parametrize("size", [512, GRAIN - 512, 3 * MIB + 512, 2 * TABLE + GRAIN + 512])
def test_a_disk_that_qemu_wrote_is_read_as_qemu_reads_it(tmp_path, size):
    disk = made(tmp_path / "disk.vmdk", size)
    end = f"write -P 2 {size - 512} 512"
    middle = f"write -P 3 {size // 2 // 512 * 512} 512"
    qemu.io(disk, "write -P 1 0 512", end, middle)
    assert contents(disk) == converted(disk)
    assert len(contents(disk)) == size


def test_a_chain_that_qemu_wrote_is_read_as_qemu_reads_it(tmp_path):
    size = TABLE + 5 * GRAIN
    qemu.create(tmp_path / "a.vmdk", size)
    qemu.io(tmp_path / "a.vmdk", "write -P 1 0 3M", f"write -P 2 {TABLE - GRAIN} 128k")
    for number, (name, parent) in enumerate([("b.vmdk", "a.vmdk"), ("c.vmdk", "b.vmdk")], 3):
        qemu.create(tmp_path / name, size, parent)
        qemu.io(tmp_path / name, f"write -P {number} {number * 100}k 70k")
    top = tmp_path / "c.vmdk"
    assert contents(top) == converted(top)
    with Chain.open(top) as chain:
        assert [layer.path.name for layer in chain.layers] == ["a.vmdk", "b.vmdk", "c.vmdk"]


def test_zero_grains_that_qemu_wrote_hide_the_parents_data(tmp_path):
    base = made(tmp_path / "a.vmdk", MIB, "zeroed_grain=on")
    qemu.io(base, "write -P 1 0 1M")
    child = made(
        tmp_path / "b.vmdk", MIB, "zeroed_grain=on", "backing_file=a.vmdk,backing_fmt=vmdk"
    )
    qemu.io(child, "write -z 128k 256k", "write -P 2 512k 64k")
    wanted = bytearray(b"\1" * MIB)
    wanted[128 << 10 : 384 << 10] = bytes(256 << 10)
    wanted[512 << 10 : 576 << 10] = b"\2" * (64 << 10)
    assert converted(child) == wanted
    assert contents(child) == wanted


def test_a_disk_that_qemu_converted_is_read(tmp_path):
    (tmp_path / "disk.raw").write_bytes(noise(2 * MIB, 1) + bytes(MIB) + noise(MIB, 2))
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk"]
    subprocess.run([*command, tmp_path / "disk.raw", tmp_path / "disk.vmdk"], check=True)
    assert contents(tmp_path / "disk.vmdk") == (tmp_path / "disk.raw").read_bytes()


def test_a_parent_that_qemu_wrote_to_since_is_refused(tmp_path):
    """QEMU itself opens such a child, and fails where it needs the parent."""
    qemu.create(tmp_path / "a.vmdk", MIB)
    qemu.create(tmp_path / "b.vmdk", MIB, "a.vmdk")
    qemu.io(tmp_path / "a.vmdk", "write -P 1 0 64k")
    with pytest.raises(ParentError, match="no longer the disk") as refusal:
        Chain.open(tmp_path / "b.vmdk")
    assert "a.vmdk" in refusal.value.title
    assert refusal.value.advice


def test_a_disk_of_another_programs_layout_is_never_written_to(tmp_path):
    disk = made(tmp_path / "disk.vmdk", MIB, "zeroed_grain=on")
    before = disk.read_bytes()
    with pytest.raises(DiskError, match="only read"):
        VmdkDisk.open(disk, writable=True)
    assert disk.read_bytes() == before


# ------------------------------------------------------------------- several extents, compressed

SUBFORMATS = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
]
TEXT = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="twoGbMaxExtentFlat"

"""


def converted_to(folder: Path, raw: bytes, subformat: str) -> Path:
    """The bytes as a VMDK of that kind, made by qemu-img."""
    (folder / "disk.raw").write_bytes(raw)
    disk = folder / "disk.vmdk"
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}"]
    subprocess.run([*command, folder / "disk.raw", disk], check=True)
    return disk


def described(folder: Path, *lines: str, head: str = TEXT) -> Path:
    """A text descriptor with these extents, and nothing that QEMU could trip over."""
    path = folder / "disk.vmdk"
    path.write_text(head + "# Extent description\n" + "\n".join(lines) + "\n")
    return path


def stream(disk: bytes, pack: Callable[[bytes], bytes] = zlib.compress) -> bytes:
    """A streamOptimized disk as VMware writes it: the directory and the footer at the end."""
    text = (
        (
            TEXT.replace("twoGbMaxExtentFlat", "streamOptimized")
            + f'RDONLY {len(disk) // 512} SPARSE "disk.vmdk"\n'
        )
        .encode()
        .ljust(512 * 20, b"\0")
    )

    def header(directory: int) -> bytes:
        return struct.pack("<4sIIQQQQIQQQB4sH433x", b"KDMV", 3, 0x30001, len(disk) // 512, 128, 1,
                           20, 512, 0, directory, 128, 0, b"\n \r\n", 1)  # fmt: skip

    def marker(kind: int, sectors: int) -> bytes:
        return struct.pack("<QII496x", sectors, 0, kind)

    file = (header(2**64 - 1) + text).ljust(128 * 512, b"\0")
    entries = []
    for at in range(0, len(disk), GRAIN):
        grain = disk[at : at + GRAIN]
        entries.append(len(file) // 512 if any(grain) else 0)
        if any(grain):
            packed = pack(grain)
            stored = struct.pack("<QI", at // 512, len(packed)) + packed
            file += stored + bytes(-len(stored) % 512)
    places = []
    for first in range(0, len(entries), 512):
        part = entries[first : first + 512]
        file += marker(1, 4)
        places.append(len(file) // 512 if any(part) else 0)
        file += struct.pack(f"<{len(part)}I", *part).ljust(2048, b"\0")
    file += marker(2, 1)
    directory = len(file) // 512
    file += struct.pack(f"<{len(places)}I", *places).ljust(512, b"\0")
    return file + marker(3, 1) + header(directory) + marker(0, 0)


@pytest.mark.parametrize("subformat", SUBFORMATS)
@pytest.mark.parametrize("size", [512, GRAIN + 512, 2 * TABLE + GRAIN + 512])
def test_every_kind_that_qemu_converts_to_is_read(tmp_path, subformat, size):
    raw = bytearray(size)
    for at in (0, TABLE - GRAIN, TABLE + 5 * GRAIN + 512, size - 512):
        raw[at : at + GRAIN] = noise(min(GRAIN, max(0, size - at)), at)
    disk = converted_to(tmp_path, bytes(raw[:size]), subformat)
    assert probe(disk) == "vmdk"
    assert contents(disk) == raw
    assert contents(disk) == converted(disk)


@pytest.mark.parametrize("subformat", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_disk_in_three_files_is_read_over_their_borders(tmp_path, subformat):
    gib = 1 << 30
    disk = made(tmp_path / "disk.vmdk", 5 * gib, f"subformat={subformat}")
    qemu.io(disk, f"write -P 1 {2 * gib - 1024} 2k", f"write -P 2 {4 * gib - 512} 512",
            f"write -P 3 {5 * gib - 512} 512")  # fmt: skip
    with Chain.open(disk) as chain:
        assert chain.size == 5 * gib
        for offset, wanted in [
            (2 * gib - 2048, bytes(1024) + b"\1" * 2048 + bytes(1024)),
            (4 * gib - 512, b"\2" * 512 + bytes(3584)),
            (5 * gib - 4096, bytes(3584) + b"\3" * 512),
        ]:
            data = bytearray(4096)
            chain.readinto(offset, memoryview(data))
            assert data == wanted


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_a_chain_over_any_kind_is_read_as_qemu_reads_it(tmp_path, subformat):
    base = converted_to(tmp_path, noise(4 * MIB, 1), subformat)
    backing = f"backing_file={base.name},backing_fmt=vmdk"
    middle = made(tmp_path / "middle.vmdk", 4 * MIB, backing, "subformat=twoGbMaxExtentSparse")
    qemu.io(middle, "write -P 2 100k 300k")
    top = made(tmp_path / "top.vmdk", 4 * MIB, "backing_file=middle.vmdk,backing_fmt=vmdk")
    qemu.io(top, "write -P 3 2M 10k", "write -P 4 4190208 4k")
    assert contents(top) == converted(top)
    with Chain.open(top) as chain:
        assert [layer.path.name for layer in chain.layers] == [base.name, "middle.vmdk", "top.vmdk"]


@pytest.mark.parametrize("size", [GRAIN, 40 * MIB, 33 * MIB + 512])
def test_a_stream_with_its_directory_at_the_end_is_read(tmp_path, size):
    raw = noise(3 * GRAIN, 1) + bytes(5 * GRAIN) + b"x" * (size - 10 * GRAIN) + noise(2 * GRAIN, 2)
    raw = raw[:size]
    disk = tmp_path / "disk.vmdk"
    disk.write_bytes(stream(raw))
    assert contents(disk) == raw
    assert converted(disk) == raw


def test_compressed_grains_are_read_by_several_threads_at_any_offset(tmp_path):
    raw = noise(40 * GRAIN + 512, 1)
    disk = converted_to(tmp_path, raw, "streamOptimized")
    found = {}

    def read(chain: Chain, at: int) -> None:
        data = bytearray(min(3 * GRAIN, len(raw) - at))
        chain.readinto(at, memoryview(data))
        found[at] = bytes(data)

    with Chain.open(disk) as chain:
        offsets = [number * 5 * GRAIN + number * 777 for number in range(8)]
        threads = [threading.Thread(target=read, args=(chain, at)) for at in offsets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(chain.map.starts) == 1  # grains that follow each other are one run
    assert found == {at: raw[at : at + 3 * GRAIN] for at in offsets}


def test_extents_of_all_kinds_make_one_disk(tmp_path):
    flat, other = noise(3 * MIB, 1), noise(MIB, 2)
    (tmp_path / "a-flat.vmdk").write_bytes(flat)
    (tmp_path / "b.bin").write_bytes(other)
    sparse = made(tmp_path / "s.vmdk", MIB)
    qemu.io(sparse, "write -P 7 64k 64k")
    disk = described(
        tmp_path,
        'RW 2048 FLAT "a-flat.vmdk" 2048',
        "RW 100 ZERO",
        "",
        'rdonly\t2048\tvmfs "b.bin"',
        'RW 2048 SPARSE "s.vmdk"',
        "NOACCESS 8 ZERO",
        'RW 8 FLAT "a-flat.vmdk" 0 partitionUUID "device"',
        'RW 8 FLAT "a-flat.vmdk" 8',
    )
    wanted = flat[MIB : 2 * MIB] + bytes(51200) + other + bytes(GRAIN) + b"\7" * GRAIN
    wanted += bytes(MIB - 2 * GRAIN + 4096) + flat[:8192]
    assert contents(disk) == wanted


def test_holes_of_flat_extents_are_not_data(tmp_path):
    disk = made(tmp_path / "disk.vmdk", 64 * MIB, "subformat=monolithicFlat")
    qemu.io(disk, "write -P 1 32M 64k")
    with Chain.open(disk) as chain:
        data = [each for each in chain.map.extents() if each.state is State.DATA]
    assert (32 * MIB, GRAIN) in [(each.offset, each.length) for each in data]
    assert sum(each.length for each in data) <= GRAIN + 4096  # qemu-img writes the first block


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", " \t\r\n"])
@pytest.mark.parametrize("subformat", ["monolithicSparse", "twoGbMaxExtentSparse"])
def test_a_descriptor_may_have_any_line_ends_blanks_and_cases(tmp_path, end, subformat):
    raw = noise(2 * MIB, 1)
    disk = converted_to(tmp_path, raw, subformat)
    data = disk.read_bytes()
    at = 512 if subformat == "monolithicSparse" else 0
    text = data[at : at + 20 * 512].split(b"\0")[0].decode()
    text = text.replace("createType=", "\tCREATETYPE\t=  ").replace("CID=", "cid = ")
    odd = text.replace("\n", end).encode()
    whole = data[:512] + odd.ljust(20 * 512, b"\0") + data[21 * 512 :] if at else odd
    disk.write_bytes(whole)
    assert contents(disk) == raw


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("windows-1252", "Büro.bin"), ("GBK", "\u529e\u516c.bin"), ("UTF-8", "\u529e.bin"), ("", "ä")],
)
def test_names_are_read_in_the_encoding_that_the_text_declares(tmp_path, encoding, name):
    raw = noise(MIB, 1)
    (tmp_path / name).write_bytes(raw)
    text = f'# Disk DescriptorFile\nencoding="{encoding}"\nCID=1\nRW 2048 FLAT "{name}" 0\n'
    (tmp_path / "disk.vmdk").write_bytes(text.encode(encoding or "latin-1"))
    assert contents(tmp_path / "disk.vmdk") == raw


@pytest.mark.parametrize("name", ["base.vmdk", "{uuid}.vmdk"])
def test_a_child_that_has_nothing_but_its_parents_uuid_finds_it(tmp_path, name):
    """VirtualBox writes no parentFileNameHint: it keeps the names in the machine's own file."""
    shelf = Shelf(tmp_path, 4 * GRAIN)
    base = shelf.add("base.vmdk", (0, noise(2 * GRAIN, 1)))
    child = shelf.add("child.vmdk", (GRAIN, noise(GRAIN, 2)))
    with Chain.open(base) as chain:
        name = name.replace("uuid", chain.layers[0].info.disk_id or "")
    base.rename(tmp_path / name)
    (tmp_path / "0.vmdk").write_bytes(b"no disk")
    (tmp_path / "1.vmdk").symlink_to(name)
    drop_lines(child, b"parentFileNameHint", b"parentCID")
    assert contents(child) == shelf.raw
    (tmp_path / name).unlink()
    with pytest.raises(ParentError, match=r"no disk in .* has that"):
        contents(child)


def drop_lines(disk: Path, *starts: bytes) -> None:
    """Take lines out of the descriptor inside a disk."""
    data = disk.read_bytes()
    lines = data[512 : 21 * 512].rstrip(b"\0").split(b"\n")
    text = b"\n".join(line for line in lines if not line.startswith(starts))
    disk.write_bytes(data[:512] + text.ljust(20 * 512, b"\0") + data[21 * 512 :])


def test_a_parent_uuid_of_zeros_is_no_parent(tmp_path):
    shelf = Shelf(tmp_path, GRAIN)
    disk = shelf.add("a.vmdk", (0, noise(GRAIN, 1)))
    data = disk.read_bytes()
    text = (
        data[512 : 21 * 512].rstrip(b"\0") + b'ddb.uuid.parent="' + str(uuid.UUID(int=0)).encode()
    )
    disk.write_bytes(data[:512] + (text + b'"\n').ljust(20 * 512, b"\0") + data[21 * 512 :])
    assert contents(disk) == shelf.raw


@pytest.mark.parametrize("subformat", SUBFORMATS[1:])
def test_what_is_only_read_is_not_opened_for_writing(tmp_path, subformat):
    disk = made(tmp_path / "disk.vmdk", MIB, f"subformat={subformat}")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DiskError, match="only read"):
        open_disk(disk, "vmdk", writable=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_extent_alone_is_said_to_be_one(tmp_path):
    made(tmp_path / "disk.vmdk", MIB, "subformat=twoGbMaxExtentSparse")
    with pytest.raises(DiskFormatError, match="extent of a larger VMDK"):
        contents(tmp_path / "disk-s001.vmdk")


# ------------------------------------------------------------------------- hostile and damaged


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "sub/secret", "out", "", ".", "..", "a\0b", "fifo"]
)
def test_an_extent_must_be_a_file_in_the_same_folder(tmp_path, name):
    folder = tmp_path / "disk"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret", folder / "sub" / "secret", folder / "plain"):
        secret.write_bytes(bytes(MIB))
    (folder / "out").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "fifo")
    with pytest.raises(DiskError) as refusal:
        contents(described(folder, f'RW 1 FLAT "{name}" 0'))
    assert refusal.value.advice


@pytest.mark.parametrize(
    "line",
    [
        'RW 2049 FLAT "plain" 0',
        'RW 1 FLAT "plain" 2048',
        'RW 1 FLAT "plain" 999999999999999999',
        'RW 999999999999999999 FLAT "plain" 0',
        "RW 999999999999999999 ZERO",
        'RW -1 FLAT "plain" 0',
        'RW x FLAT "plain" 0',
        "RW 1",
        'RW 1 FLAT "plain 0',
        'RW 1 VMFSSPARSE "plain"',
        'RW 1 SESPARSE "plain"',
        'RW 2048 SPARSE "plain"',
        'NOACCESS 1 FLAT "plain" 0',
        "RW 0 ZERO",
        "no extent at all",
    ],
)
def test_an_extent_that_makes_no_sense_is_refused(tmp_path, line):
    (tmp_path / "plain").write_bytes(bytes(MIB))
    with pytest.raises(DiskError) as refusal:
        contents(described(tmp_path, line))
    assert refusal.value.advice


def test_an_extent_that_is_missing_is_named(tmp_path):
    with pytest.raises(DiskError, match=r"'gone.bin', which is missing"):
        contents(described(tmp_path, 'RW 1 FLAT "gone.bin" 0'))


@pytest.mark.parametrize("name", ["link", "{folder}/real", "./real", "../{last}/real"])
def test_an_extent_in_the_same_folder_is_read_however_it_is_named(tmp_path, name):
    raw = noise(MIB, 1)
    (tmp_path / "real").write_bytes(raw)
    (tmp_path / "link").symlink_to("between")
    (tmp_path / "between").symlink_to(tmp_path / "real")
    name = name.format(folder=tmp_path, last=tmp_path.name)
    assert contents(described(tmp_path, f'RW 2048 FLAT "{name}" 0')) == raw


def test_an_extent_elsewhere_is_no_damage_and_named_as_what_it_is(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "disk"
    folder.mkdir()
    outside.write_bytes(bytes(MIB))
    (folder / "link").symlink_to(outside)
    (folder / "gone").symlink_to(tmp_path / "nothing")
    for name, said in (
        ("link", f"a link to {outside}, outside its own folder"),
        ("gone", "and there is nothing"),
        (str(outside), "not in its own folder"),
        (r"C:\VMs\disk-flat.vmdk", "not in its own folder"),
    ):
        with pytest.raises(PartMissing, match=re.escape(said)) as refusal:
            contents(described(folder, f'RW 2048 FLAT "{name}" 0'))
        assert refusal.value.advice


def test_one_file_by_two_names_is_one_file(tmp_path):
    (tmp_path / "real").write_bytes(bytes(MIB))
    (tmp_path / "link").symlink_to("real")
    lines = 'RW 2048 FLAT "real" 0\nRW 2048 FLAT "link" 0'
    with pytest.raises(DiskFormatError, match="twice"):
        contents(described(tmp_path, lines))


@pytest.mark.parametrize("subformat", ["twoGbMaxExtentSparse", "monolithicFlat"])
def test_a_disk_that_is_named_by_a_link_has_its_extents_where_it_lies(tmp_path, subformat):
    (tmp_path / "real").mkdir()
    disk = made(tmp_path / "real/disk.vmdk", MIB, f"subformat={subformat}")
    (tmp_path / "current.vmdk").symlink_to(disk)
    assert contents(tmp_path / "current.vmdk") == contents(disk)


def test_a_sparse_extent_of_another_size_than_its_line_says_is_refused(tmp_path):
    made(tmp_path / "s.vmdk", MIB)
    for sectors, said in (
        (1920, "is of 1 MiB, not 960 KiB"),
        (2049, "is of 1,048,576 bytes, not 1,049,088 bytes"),
    ):
        with pytest.raises(DiskFormatError, match=said):
            contents(described(tmp_path, f'RW {sectors} SPARSE "s.vmdk"'))


# ------------------------------------------------------------------------------ as VirtualBox does


def with_whole_grains(disk: Path) -> None:
    """Round the header's capacity up to whole grains, as VirtualBox and VMware do."""
    with disk.open("r+b") as file:
        file.seek(12)
        (capacity,) = struct.unpack("<Q", file.read(8))
        file.seek(12)
        file.write(struct.pack("<Q", -(-capacity // 128) * 128))


@pytest.mark.parametrize("size", [512, GRAIN - 512, GRAIN + 512, TABLE + 3 * 512])
def test_a_disk_is_as_large_as_its_descriptor_says_not_as_its_whole_grains(tmp_path, size):
    raw = noise(size, 1)
    disk = converted_to(tmp_path, raw, "monolithicSparse")
    with_whole_grains(disk)
    assert contents(disk) == raw
    libvmdk.assert_holds(disk, tmp_path / "disk.raw")


def test_a_stream_and_a_split_disk_are_as_large_as_their_descriptors_say(tmp_path):
    raw = noise(GRAIN + 512, 1)
    for subformat, part in [
        ("streamOptimized", "disk.vmdk"),
        ("twoGbMaxExtentSparse", "disk-s001.vmdk"),
    ]:
        folder = tmp_path / subformat
        folder.mkdir()
        disk = converted_to(folder, raw, subformat)
        with_whole_grains(folder / part)
        assert contents(disk) == raw


def test_a_child_of_whole_grains_can_be_written_and_is_not_longer_afterwards(tmp_path):
    shelf = Shelf(tmp_path, GRAIN + 512)
    shelf.add("a.vmdk", (0, noise(GRAIN + 512, 1)))
    child = shelf.add("b.vmdk", (GRAIN, noise(512, 2)))
    for disk in (tmp_path / "a.vmdk", child):
        with_whole_grains(disk)
    with opened(child, "vmdk", writable=True) as disk:
        put(disk, (0, noise(GRAIN, 3)))
        disk.flush()
    assert contents(child) == noise(GRAIN, 3) + noise(512, 2)


@pytest.mark.parametrize("sectors", [127, 257, 384])
def test_a_descriptor_that_contradicts_the_header_is_refused(tmp_path, sectors):
    disk = converted_to(tmp_path, noise(2 * GRAIN, 1), "monolithicSparse")
    disk.write_bytes(disk.read_bytes().replace(b"RW 256 SPARSE", b"RW %d SPARSE" % sectors))
    with pytest.raises(DiskFormatError, match="the descriptor speaks of"):
        contents(disk)


def snapshots(tmp_path: Path) -> tuple[Shelf, Path]:
    """VirtualBox's folder of a machine: the first disk in it, all children in Snapshots."""
    shelf = Shelf(tmp_path, 4 * GRAIN)
    shelf.add("machine.vmdk", (0, noise(2 * GRAIN, 1)))
    children = [shelf.add(name, (GRAIN, noise(GRAIN, 2))) for name in ("{b}.vmdk", "{c}.vmdk")]
    folder = tmp_path / "Snapshots"
    folder.mkdir()
    for child in children:
        drop_lines(child, b"parentFileNameHint")
        child.rename(folder / child.name)
    return shelf, folder / children[-1].name


def test_virtualboxs_snapshots_are_read_with_the_folder_above_them(tmp_path):
    shelf, child = snapshots(tmp_path)
    with Chain.open(child, parents_in=[tmp_path]) as chain:
        data = bytearray(chain.size)
        chain.readinto(0, memoryview(data))
        assert [layer.path.name for layer in chain.layers] == [
            "machine.vmdk", "{b}.vmdk", "{c}.vmdk",
        ]  # fmt: skip
    assert data == shelf.raw


def test_a_parent_that_is_known_by_its_uuid_alone_is_said_to_be_missing_so(tmp_path):
    _, child = snapshots(tmp_path)
    with pytest.raises(ParentError, match=r"names its parent by the identity .* alone") as refusal:
        contents(child)
    assert refusal.value.remedy is Remedy.NAME_PARENTS


def test_one_sparse_file_a_thousand_times_is_refused(tmp_path):
    made(tmp_path / "s.vmdk", MIB)
    with pytest.raises(DiskFormatError, match="twice"):
        contents(described(tmp_path, *['RW 2048 SPARSE "s.vmdk"'] * 1000))


def test_one_flat_file_a_thousand_times_is_refused(tmp_path):
    """The map of a file with many holes would be there a thousand times."""
    (tmp_path / "plain").write_bytes(bytes(MIB))
    with pytest.raises(DiskFormatError, match="twice"):
        contents(described(tmp_path, *['RW 2048 FLAT "plain" 0'] * 1000))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"no deflate at all",
        zlib.compress(bytes(GRAIN - 1)),
        zlib.compress(bytes(GRAIN + 1)),
        zlib.compress(bytes(64 << 20)),
        zlib.compress(noise(GRAIN, 1))[:-1],
        zlib.compress(noise(GRAIN, 1))[:-4] + b"sums",
    ],
)
def test_a_grain_that_does_not_inflate_to_its_size_is_refused_in_little_memory(tmp_path, packed):
    disk = tmp_path / "disk.vmdk"
    disk.write_bytes(stream(b"x" * GRAIN, pack=lambda _: packed))
    tracemalloc.start()
    try:
        with pytest.raises(DiskFormatError, match="grain 0"):
            contents(disk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


def test_a_marker_of_another_grain_is_noticed(tmp_path):
    data = bytearray(stream(noise(2 * GRAIN, 1)))
    struct.pack_into("<Q", data, 128 * 512, 128)
    (tmp_path / "disk.vmdk").write_bytes(data)
    with pytest.raises(DiskFormatError, match="grain 0"):
        contents(tmp_path / "disk.vmdk")


def test_a_stream_that_is_cut_off_while_it_is_open_is_an_error(tmp_path):
    disk = tmp_path / "disk.vmdk"
    disk.write_bytes(stream(noise(GRAIN, 1)))
    with Chain.open(disk) as chain:
        for length in (128 * 512 + 100, 128 * 512 + 5, 512):
            os.truncate(disk, length)
            with pytest.raises(DiskFormatError):
                chain.readinto(0, memoryview(bytearray(512)))


@pytest.mark.parametrize(("place", "layout"), [(8, "<I"), (77, "<H")])
def test_a_header_in_which_only_one_place_says_compressed_is_refused(tmp_path, place, layout):
    data = bytearray(stream(noise(GRAIN, 1)))
    struct.pack_into(layout, data, place, 0)
    (tmp_path / "disk.vmdk").write_bytes(data)
    with pytest.raises(DiskFormatError, match="compression"):
        contents(tmp_path / "disk.vmdk")


@pytest.mark.parametrize("cut", [1, 512, 1024, 1536, 4096])
def test_a_stream_that_was_cut_off_is_refused(tmp_path, cut):
    data = stream(noise(2 * GRAIN, 1))
    (tmp_path / "disk.vmdk").write_bytes(data[:-cut])
    with pytest.raises(DiskFormatError):
        contents(tmp_path / "disk.vmdk")


class Sound:
    """Files as they are when nothing is wrong with them (Hypothesis would print plain bytes)."""

    def __init__(self, folder: Path, raw: bytes, data: bytes) -> None:
        self.folder, self.raw, self.data = folder, raw, data

    def __repr__(self) -> str:
        return "a sound disk"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    raw = noise(GRAIN, 1) + bytes(GRAIN) + b"x" * GRAIN
    return Sound(tmp_path_factory.mktemp("stream"), raw, stream(raw))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("split")
    (folder / "a.bin").write_bytes(noise(GRAIN, 1))
    sparse = made(folder / "s.vmdk", GRAIN)
    qemu.io(sparse, "write -P 1 0 64k")
    disk = described(folder, 'RW 128 FLAT "a.bin" 0', 'RW 128 SPARSE "s.vmdk"', "RW 128 ZERO")
    return Sound(folder, noise(GRAIN, 1) + b"\1" * GRAIN + bytes(GRAIN), disk.read_bytes())


def read_or_refused(path: Path) -> bytes | None:
    """What is read; None if it is refused; any other error is a fault."""
    with suppress(DiskError), Chain.open(path, "vmdk") as chain:
        data = bytearray(min(chain.size, MIB))
        chain.readinto(0, memoryview(data))
        return bytes(data)
    return None


@given(st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8)), max_size=4))
def test_a_damaged_stream_never_gives_wrong_grains(sound, damages):
    """Grains carry a checksum (RFC 1950): damage in tables, markers or data is a sentence."""
    data = bytearray(sound.data)
    head = 600  # header and text; then where the grains, the tables and the footer are
    for place, what in damages:
        at = 128 * 512 + place % (len(data) - 128 * 512) if place > head else place
        data[at : at + len(what)] = what
    path = sound.folder / "damaged.vmdk"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        found = read_or_refused(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * MIB
    if found is not None:
        for at in range(0, min(len(found), len(sound.raw)), GRAIN):
            grain = found[at : at + GRAIN]
            assert grain == sound.raw[at : at + len(grain)] or not any(grain)


@given(
    st.lists(st.tuples(st.integers(0, 250), st.integers(0, 4), st.binary(max_size=9)), max_size=4)
)
def test_a_damaged_text_is_read_or_refused(split, damages):
    data = split.data
    for at, length, what in damages:
        data = data[:at] + what + data[at + length :]
    path = split.folder / "damaged.vmdk"
    path.write_bytes(data)
    found = read_or_refused(path)
    assert damages or found == split.raw


@given(st.text(alphabet=' \t\r\n"=RWFLATZERO0123456789abin.#CD', max_size=200))
def test_any_text_behind_the_first_line_is_read_or_refused(split, text):
    path = split.folder / "damaged.vmdk"
    path.write_text("# Disk DescriptorFile\nCID=1\n" + text)
    read_or_refused(path)


def test_what_cannot_be_opened_is_not_left_open(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(MIB))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DiskError):
        contents(described(tmp_path, 'RW 2048 FLAT "a.bin" 0', 'RW 1 FLAT "gone" 0'))
    assert len(os.listdir("/proc/self/fd")) == before
