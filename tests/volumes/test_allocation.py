"""Only what lies free in one volume is left out of a disk: whole units, and nothing around them."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sources.loops import loop, mounted
from tests.volumes.volumes import MIB, run
from vdbackup.backup.unread import few
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import overlap, total, without
from vdbackup.disks.names import DiskFormat
from vdbackup.volumes import allocation
from vdbackup.volumes.allocation import SHORTEST, LeftOut, MountedAreas, left_out
from vdbackup.volumes.filesystems.free_clusters import clear_bits, stretches
from vdbackup.volumes.places import Place

UNMOUNTED = MountedAreas()


def of(image: Path, in_use: MountedAreas = UNMOUNTED) -> LeftOut:
    with Chain.open(image, DiskFormat.RAW) as disk:
        return left_out(disk, in_use)


def disk_of(folder: Path, *parts: tuple[int, int, str]) -> Path:
    """A disk with partitions: the first MiB, the size in MiB, and what makes what is in it."""
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(256 * MIB)
    table = "label: gpt\n" + "".join(
        f"start={start * 2048}, size={size * 2048}\n" for start, size, _ in parts
    )
    run("sfdisk", "--quiet", image, stdin=table)
    for number, (start, size, maker) in enumerate(parts, 1):
        part = folder / f"part{number}"
        with part.open("wb") as file:
            file.truncate(size * MIB)
        if maker:
            run(*maker.split(), part)
        with image.open("r+b") as file:
            file.seek(start * MIB)
            file.write(part.read_bytes())
    return image


EXT4 = "mkfs.ext4 -q -b 4096"
SWAP = "mkswap"


def test_each_partition_says_what_of_it_is_not_read(tmp_path):
    image = disk_of(
        tmp_path, (1, 64, EXT4), (65, 32, SWAP), (100, 80, "mkfs.btrfs -q --mixed"),
        (190, 40, EXT4),
    )  # fmt: skip
    found = of(image)
    assert [sentence.split(":")[0] for sentence in found.sentences] == [
        "Free space of ext4 on partition 1 is not read",
        "Space for swapping on partition 2 is not read",
        "Free space of Btrfs on partition 3 is not read",
        "Free space of ext4 on partition 4 is not read",
    ]
    assert total(found.swap) == 32 * MIB - UNIT
    parts = np.array([[1, 64], [65, 32], [100, 80], [190, 40]]) * MIB
    assert not len(without(found.ranges, parts))
    assert not (found.ranges % UNIT).any()


def test_a_swap_area_is_left_out_but_for_its_header_and_what_it_does_not_use(tmp_path):
    image = tmp_path / "swap"
    image.write_bytes(bytes(16 * MIB))
    run("mkswap", image, "2048")  # KiB... of the 16 MiB
    found = of(image)
    assert found.ranges[0, 0] == UNIT
    (last,) = struct.unpack_from("<I", image.read_bytes(), 1028)
    assert found.ranges.sum(1)[-1] <= (last + 1) * 4096


@pytest.mark.parametrize("mark", [b"S1SUSPEND\0", b"SWAP-SPACE"])
def test_a_swap_area_that_may_be_gone_on_from_is_kept_whole(tmp_path, mark):
    image = tmp_path / "swap"
    image.write_bytes(bytes(16 * MIB))
    run("mkswap", image)
    with image.open("r+b") as file:
        file.seek(4086)
        file.write(mark)
    found = of(image)
    assert not len(found.ranges)
    assert "swap is kept whole" in found.sentences[0]


def test_what_lies_in_two_partitions_is_free_in_neither(tmp_path):
    image = disk_of(tmp_path, (1, 200, EXT4))
    alone = of(image)
    assert total(alone.ranges) > 150 * MIB
    # a table of the old kind names both: sfdisk will not, so it is written by hand
    sector = bytearray(512)
    for slot, (start, size) in enumerate(((1, 200), (100, 50))):
        struct.pack_into("<B3xB3xII", sector, 446 + 16 * slot, 0, 0x83, start * 2048, size * 2048)
    sector[510:] = b"\x55\xaa"
    with image.open("r+b") as file:
        file.write(sector + bytes(MIB - 512))
        file.seek(255 * MIB)
        file.write(bytes(MIB))
    both = of(image)
    assert not len(overlap(both.ranges, np.array([[100 * MIB, 50 * MIB]])))
    assert 0 < total(both.ranges) < total(alone.ranges)


def test_a_disk_whose_table_is_damaged_is_kept_whole(tmp_path):
    image = disk_of(tmp_path, (1, 200, EXT4))
    with image.open("r+b") as file:
        file.seek(512)
        file.write(b"X" * 1024)
        file.seek(-1024, 2)
        file.write(b"X" * 1024)
    assert not len(of(image).ranges)


def test_a_file_system_that_is_larger_than_its_partition_is_kept_whole(tmp_path):
    image = disk_of(tmp_path, (1, 100, EXT4))
    run("sfdisk", "--quiet", "--force", image, stdin="label: gpt\nstart=2048, size=100000\n")
    found = of(image)
    assert not len(found.ranges)
    assert "kept whole" in found.sentences[0]


numbers = st.integers(0, 400)


@given(st.lists(st.tuples(numbers, st.integers(1, 60)), max_size=20), st.integers(1, 8))
def test_few_ranges_hold_all_of_many(pieces, most):
    flags = np.zeros(500, np.bool_)
    for start, length in pieces:
        flags[start : start + length] = True
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.view(np.int8), [0])))).reshape(-1, 2)
    ranges = np.stack([edges[:, 0], edges[:, 1] - edges[:, 0]], axis=1).astype(np.int64)
    found = few(ranges, most)
    assert len(found) == min(most, len(ranges))
    assert not len(without(ranges, found))


@given(st.lists(st.sampled_from([0, 0xFF, 0xFF, 0, 1, 0x80, 0x7E, 0x3C]), max_size=40), st.data())
def test_the_zeros_of_a_bitmap_are_found_in_stretches(values, data):
    bitmap = np.array(values, np.uint8)
    count = data.draw(st.integers(0, len(values) * 8))
    bits = np.unpackbits(bitmap, bitorder="little")[:count].view(np.bool_)
    found = clear_bits(bitmap, count)
    assert found.tolist() == stretches(~bits).tolist()


@settings(max_examples=200)
@given(
    st.lists(st.tuples(numbers, st.integers(1, 90)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 500)), max_size=15),
)
def test_what_is_left_out_is_free_in_the_volume_and_lies_in_no_other(runs, free):
    """A plain array of bytes (of 4 KiB each) says the same of each unit."""
    kib = 4096
    size = 600 * kib * 4
    places = [Place(n + 1, ((start * 4 * kib, length * 4 * kib),)) for n, (start, length) in
              enumerate(runs)]  # fmt: skip
    first = places[0]
    flags = np.zeros(size // kib, np.bool_)
    start = first.runs[0][0] // kib
    inside = np.zeros(first.size // kib, np.bool_)
    for at, length in free:
        inside[at : at + length] = True
    flags[start : start + len(inside)] = inside
    for other in places[1:]:
        ((at, length),) = other.runs
        flags[at // kib : (at + length) // kib] = False
    edges = np.flatnonzero(np.diff(np.concatenate(([0], inside.view(np.int8), [0])))).reshape(-1, 2)
    ranges = np.stack([edges[:, 0], edges[:, 1] - edges[:, 0]], axis=1).astype(np.int64) * kib
    found = allocation._Found(first, "ext4", allocation.on_disk(ranges, first.runs))
    got = allocation._apart(found, places, size)
    wanted = flags[: size // UNIT * (UNIT // kib)].reshape(-1, UNIT // kib).all(axis=1)
    units = np.zeros(len(wanted), np.bool_)
    for at, length in got.tolist():
        units[at // UNIT : (at + length) // UNIT] = True
    assert (units == wanted).all()
    longest = allocation._longest(got)
    assert (longest[:, 1] >= SHORTEST).all()


def made(folder: Path, maker: str, size: int) -> tuple[Path, dict[str, bytes]]:
    """A volume without a partition around it, with files in it."""
    image = folder / "volume.img"
    with image.open("wb") as file:
        for number in range(size):
            file.write(bytes([1 + number % 255]) * MIB)  # what was there before
    run(*maker.split(), image)
    files = {f"file {n}": bytes([n + 1]) * (3 * MIB + n) for n in range(5)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        copy = ("ntfscp", "-q", image) if "ntfs" in maker else ("mcopy", "-i", image)
        run(*copy, folder / name, name if "ntfs" in maker else "::")
    return image, files


def without_what_is_left_out(image: Path) -> LeftOut:
    found = of(image)
    with image.open("r+b") as file:
        for offset, length in found.ranges.tolist():
            file.seek(offset)
            file.write(bytes(length))
    return found


VOLUMES = {
    "NTFS": ("mkfs.ntfs -Q -q -F", 64, ("ntfsfix", "-n")),
    "FAT12": ("mkfs.vfat -F 12 -s 64", 64, ("fsck.vfat", "-n")),
    "FAT16": ("mkfs.vfat -F 16", 64, ("fsck.vfat", "-n")),
    "FAT32": ("mkfs.vfat -F 32 -s 1", 64, ("fsck.vfat", "-n")),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_what_is_left_out_of_one_that_was_unmounted_is_missed_by_nobody(tmp_path, name):
    maker, size, checker = VOLUMES[name]
    image, files = made(tmp_path, maker, size)
    found = without_what_is_left_out(image)
    assert total(found.ranges) > 30 * MIB
    run(*checker, image)
    for file, data in files.items():
        read = ["ntfscat", image, file] if name == "NTFS" else ["mtype", "-i", image, f"::{file}"]
        assert subprocess.run(read, capture_output=True, check=True).stdout == data


def marked(image: Path, place: int, data: bytes) -> Path:
    with image.open("r+b") as file:
        file.seek(place)
        file.write(data)
    return image


def test_a_fat_that_was_not_unmounted_or_whose_tables_differ_is_kept_whole(tmp_path):
    maker, size, _ = VOLUMES["FAT32"]
    image, _ = made(tmp_path, maker, size)
    head = image.read_bytes()[:512]
    reserved = struct.unpack_from("<H", head, 14)[0] * 512
    (length,) = struct.unpack_from("<I", head, 36)
    untouched = image.read_bytes()
    for place, data, why in (
        (0x41, b"\1", "not unmounted cleanly"),
        (reserved + length * 512 + 400, b"\7", "copies of its table differ"),
        (36, bytes(4), "kind that vdbackup does not know|damaged"),
    ):
        image.write_bytes(untouched)
        found = of(marked(image, place, data))
        assert not len(found.ranges)
        assert re.search(why, " ".join(found.sentences)), found.sentences
    both = bytearray(untouched)
    for table in range(2):  # the bit that says how it was left
        both[reserved + table * length * 512 + 7] &= 0xF7
    image.write_bytes(both)
    assert "not unmounted cleanly" in of(image).sentences[0]


def test_an_ntfs_that_is_dirty_hibernated_or_in_use_is_kept_whole(tmp_path):
    maker, size, _ = VOLUMES["NTFS"]
    image, _ = made(tmp_path, maker, size)
    everywhere = np.array([[0, size * MIB]], np.int64)
    found = of(image, MountedAreas(all=everywhere))
    assert (len(found.ranges), found.sentences) == (0, ("NTFS is kept whole: it is in use.",))
    file = tmp_path / "hiberfil.sys"
    file.write_bytes(b"hibr" + bytes(1 << 16))
    run("ntfscp", "-q", image, file, "hiberfil.sys")
    assert "hibernated" in of(image).sentences[0]


def test_what_windows_swaps_to_in_files_is_not_read_and_all_other_files_are_there(
    tmp_path, as_root
):
    """Zeros in its place harm nothing: neither the file system nor a file that is called so too."""
    image = tmp_path / "windows.img"
    with image.open("wb") as file:
        file.truncate(160 * MIB)
    run("mkfs.ntfs", "-Q", "-q", "-F", image)
    bytes_of = {name: os.urandom(16 * MIB) for name in ("pagefile.sys", "swapfile.sys", "own")}
    bytes_of["hiberfil.sys"] = b"wake" + os.urandom(16 * MIB)
    with loop(image) as device, mounted(device, tmp_path / "mount", "-t", "ntfs-3g") as folder:
        for name, data in bytes_of.items():
            (folder / name).write_bytes(data)
            if name in ("pagefile.sys", "hiberfil.sys"):  # hidden, and the system's
                os.setxattr(folder / name, "system.ntfs_attrib_be", b"\0\0\0\x06")
    found = of(image)
    assert found.sentences[1].startswith("Space for swapping is not read: 3")
    assert 29 * MIB < total(found.swap) <= 31 * MIB
    with image.open("r+b") as file:
        for offset, length in found.ranges.tolist():
            file.seek(offset)
            file.write(bytes(length))
    run("ntfsfix", "-n", image)
    for name in ("own", "swapfile.sys"):
        there = subprocess.run(["ntfscat", image, name], check=True, capture_output=True).stdout
        assert there == bytes_of[name]
    kept = subprocess.run(["ntfscat", image, "hiberfil.sys"], check=True, capture_output=True)
    assert kept.stdout[:MIB] == bytes_of["hiberfil.sys"][:MIB]


def test_what_bears_the_mark_of_another_file_system_too_is_kept_whole(tmp_path):
    """Not every program that makes one clears all that was there before."""
    image = tmp_path / "stick.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    run(*EXT4.split(), image)
    before = image.read_bytes()[1024:2048]
    run("mkfs.vfat", "-F", "32", image)
    found = of(marked(image, 1024, before))
    assert len(found.ranges) == 0
    assert found.sentences == ("ext is kept whole: it bears the mark of FAT, too.",)


@pytest.mark.parametrize("maker", ["mkfs.vfat -F 16 -s 32", EXT4])
def test_what_has_become_a_disk_with_partitions_is_kept_whole(tmp_path, maker):
    """Programs that partition leave the rest of the first sector, and all that lies behind it.

    A stick that was a FAT as a whole still looks like one; a volume, too, that is a disk to a VM.
    """
    volume = tmp_path / "volume.img"
    with volume.open("wb") as file:
        file.truncate(128 * MIB)
    run(*maker.split(), volume)
    table = "label: dos\nstart=2048, size=100000, type=83\n"
    run("sfdisk", "--quiet", "--wipe", "never", volume, stdin=table)
    disk = disk_of(tmp_path, (1, 128, f"cp {volume}"))
    for image in (disk, volume):
        found = of(image)
        assert len(found.ranges) == 0
    assert of(disk).sentences[0].endswith("it has a partition table, too.")


def empty_ext4(image: Path, offset: int, size: int) -> None:
    """One whose maps call everything free but its own first and last few MiB."""
    part = image.with_name("part.img")
    with part.open("wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-F", "-b", "4096", part)
    run("dd", f"if={part}", f"of={image}", "bs=1M", f"seek={offset // MIB}", "conv=notrunc,sparse")


def entry(slot: int, kind: int, start: int, size: int) -> tuple[int, bytes]:
    """Where an entry of an MBR stands, and what it is; start and size in bytes."""
    fields = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, kind, 0, 0, 0, start // 512, size // 512)
    return 446 + 16 * slot, fields


@pytest.mark.parametrize("kind", ["GPT beside an MBR", "hybrid MBR", "volume behind an MBR"])
def test_what_another_table_or_mark_has_there_is_free_in_no_partition(tmp_path, kind):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(256 * MIB)
    start, size = MIB, 240 * MIB
    if kind == "volume behind an MBR":
        start, size = 64 * MIB, 180 * MIB
        run("mkfs.ext4", "-q", "-F", image)
        places = [entry(0, 0x83, start, size), (510, b"\x55\xaa")]
    elif kind == "GPT beside an MBR":
        run("sfdisk", "--quiet", image, stdin="label: gpt\nsize=20M\nstart=128M, size=100M\n")
        places = [entry(0, 0x83, start, size)]
    else:
        run("sfdisk", "--quiet", image, stdin="label: gpt\nsize=240M\n")
        places = [entry(1, 0x0C, 128 * MIB, 100 * MIB)]
    empty_ext4(image, start, size)
    if kind != "GPT beside an MBR":  # its first partition is not the file system's
        assert len(of(image).ranges)
    with image.open("r+b") as file:
        for place, data in places:
            file.seek(place)
            file.write(data)
    found = of(image)
    assert not len(found.ranges)
    assert any("something else lies there" in sentence for sentence in found.sentences)


def test_a_hybrid_mbr_that_names_the_same_partitions_contradicts_nothing(tmp_path):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(256 * MIB)
    run("sfdisk", "--quiet", image, stdin="label: gpt\nstart=1M, size=240M\n")
    empty_ext4(image, MIB, 240 * MIB)
    with image.open("r+b") as file:
        place, data = entry(1, 0x83, MIB, 240 * MIB)
        file.seek(place)
        file.write(data)
    assert len(of(image).ranges)


@pytest.mark.parametrize(
    ("place", "mark"),
    [
        (1 << 20, b"\x0d\xd0\x01\xc0"),
        (2 << 20, b"\x5e\xf1\xab\x2f"),
        (516, b"!Stra0tis\x86\xff\x02^\x41rh"),
        (8192, b"OCFSV2"),
    ],
    ids=["VMFS member", "VMFS", "Stratis", "OCFS2"],
)
def test_what_was_made_over_an_old_file_system_is_kept_whole(tmp_path, place, mark):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    assert len(of(image).ranges)
    with image.open("r+b") as file:
        file.seek(place)
        file.write(mark)
    assert not len(of(image).ranges)


def test_swap_that_bears_another_mark_is_kept_whole(tmp_path):
    """What was made over it may begin behind its header."""
    image = tmp_path / "swap"
    image.write_bytes(bytes(16 * MIB))
    run("mkswap", image)
    found = of(marked(image, 4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")))
    assert len(found.ranges) == 0
    assert found.sentences == ("swap is kept whole: it bears the mark of bcache, too.",)


def test_a_volume_that_has_a_snapshot_is_kept_whole(tmp_path):
    """What was deleted since is free in it, and the snapshot's files are still there."""
    image = tmp_path / "volume.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    run(*EXT4.split(), image)
    place = Place(0, ((0, 64 * MIB),), "vg-root", group_and_name="vg/root", has_snapshot=True)
    with Chain.open(image, DiskFormat.RAW) as disk:
        (found,) = allocation._look(disk, place, UNMOUNTED)
    assert not len(found.free)
    assert "has a snapshot" in found.kept


def test_a_logical_volume_that_lies_nobody_knows_where_keeps_no_other_whole(tmp_path, monkeypatch):
    """A thin one, or one in stripes: the group's own list says that none lies in another."""
    image = tmp_path / "volume.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    run(*EXT4.split(), image)
    plain = Place(0, ((0, 64 * MIB),), "vg-plain", group_and_name="vg/plain")
    thin = Place(0, (), "vg-thin", group_and_name="vg/thin", problem="It lies in a thin pool.")
    monkeypatch.setattr(allocation.places, "find", lambda _: (None, [plain, thin]))
    assert total(of(image).ranges) > 50 * MIB


def test_an_ntfs_with_shadow_copies_is_kept_whole(tmp_path):
    """They read from it what was deleted since, which it calls free."""
    maker, size, _ = VOLUMES["NTFS"]
    image, _ = made(tmp_path, maker, size)
    head = bytes.fromhex("6b87083876c1484eb7ae04046e6cc752") + struct.pack("<II", 1, 1)
    without = of(marked(image, 0x1E00, head + bytes(40)))
    assert total(without.ranges) > 30 * MIB
    found = of(marked(image, 0x1E00 + 48, struct.pack("<Q", 0x4000)))
    assert not len(found.ranges)
    assert "shadow copies" in found.sentences[0]


def test_what_the_kernel_has_made_another_device_of_is_kept_whole(tmp_path):
    """What looks like a file system is older than what a cache before it holds, for example."""
    image = disk_of(tmp_path, (1, 64, EXT4), (65, 64, EXT4))
    found = of(image, MountedAreas(built_on=np.array([[MIB, 64 * MIB]], np.int64)))
    assert [sentence.split(":")[0] for sentence in found.sentences] == [
        "ext4 on partition 1 is kept whole",
        "Free space of ext4 on partition 2 is not read",
    ]
    assert found.ranges[0, 0] >= 65 * MIB


def test_what_overlaps_with_a_mounted_file_system_is_kept_whole(tmp_path):
    """The kernel goes by the table that it has read, whatever the disk's is by now."""
    image = disk_of(tmp_path, (1, 64, EXT4), (65, 64, EXT4))
    mounted = np.array([[32 * MIB, 33 * MIB]], np.int64)
    found = of(image, MountedAreas(frozen=mounted, all=mounted))
    assert found.sentences[0] == "ext4 on partition 1 is kept whole: it is in use."
    assert found.ranges[0, 0] >= 65 * MIB


def test_a_stick_that_bitlocker_encrypts_is_kept_whole(tmp_path):
    """It looks like a FAT with a program in it."""
    maker, size, _ = VOLUMES["FAT32"]
    image, _ = made(tmp_path, maker, size)
    found = of(marked(image, 424, bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")))
    assert found.sentences == ("FAT is kept whole: it bears the mark of BitLocker, too.",)
