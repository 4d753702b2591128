"""What is special to QCOW2 as we write it; what holds for each format is in test_formats.py."""

from __future__ import annotations

import struct
import subprocess
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from tests.disks.everybody import assert_everybody_reads
from tests.disks.recorder import recorded
from tests.disks.shelf import GRAIN, MIB, Shelf, change, contents, opened, put, reference
from tests.noise import noise
from tests.oracles import libqcow, qemu
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import ParentRef
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.disks.qcow2.structs import IDENTITY, HeaderCluster, Identity

TABLE = 512 * MIB  # bytes of disk that one L2 table stands for


def first_cluster(path: Path) -> HeaderCluster:
    with path.open("rb") as file:
        return HeaderCluster.parse(file.read(GRAIN), path, path.stat().st_size)


def identity(path: Path) -> Identity:
    return first_cluster(path).identity(path)


def entries(path: Path, table: int = 0) -> tuple[int, ...]:
    """The entries of one L2 table, as they stand in the file."""
    at = first_cluster(path).header.l1_offset + table * 8
    with path.open("rb") as file:
        file.seek(at)
        file.seek(struct.unpack(">Q", file.read(8))[0] & ~(1 << 63))
        return struct.unpack(">8192Q", file.read(GRAIN))


def check(path: Path) -> None:
    qemu.assert_sound(path, "qcow2")


def io(path: Path, *commands: str) -> str:
    return qemu.io(path, *commands, disk_format="qcow2")


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def test_zeros_over_a_parent_are_real_clusters_because_libqcow_knows_no_others(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN, "qcow2")
    shelf.add("a.qcow2", (0, noise(4 * GRAIN, 1)))
    path = shelf.add("b.qcow2", (GRAIN, 2 * GRAIN))
    assert [entry >> 63 for entry in entries(path)[:4]] == [0, 1, 1, 0]
    assert [entry & 1 for entry in entries(path)[:4]] == [0, 0, 0, 0]
    assert path.stat().st_blocks * 512 < 5 * GRAIN  # header, tables; the zeros are a hole
    assert_everybody_reads(shelf)


def test_libqcow_takes_a_zero_flag_over_a_parent_for_an_absent_cluster(tmp_path):
    """The reason for the test above: if this fails one day, flags may be written."""
    shelf = Shelf(tmp_path, 4 * GRAIN, "qcow2")
    shelf.add("a.qcow2", (0, noise(4 * GRAIN, 1)))
    child = shelf.add("b.qcow2")
    io(child, "write -z -u 64k 64k")
    shelf.note((GRAIN, GRAIN))
    assert contents(child, "qcow2") == shelf.raw
    qemu.assert_holds(child, shelf.raw_file(), "qcow2")
    assert libqcow.read(child) != shelf.raw


def test_zeros_and_data_over_zero_flags_that_qemu_set_are_read_right(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN, "qcow2")
    shelf.add("a.qcow2", (0, noise(8 * GRAIN, 1)))
    path = shelf.add("b.qcow2", (0, noise(4 * GRAIN, 2)))
    io(path, "write -z 0 256k", "write -z -u 256k 256k")
    shelf.note((0, 8 * GRAIN))
    writes = [(n * GRAIN, GRAIN if n % 2 else noise(GRAIN, n)) for n in range(8)]
    change(path, "qcow2", *writes)
    shelf.note(*writes)
    assert_everybody_reads(shelf)


def test_one_write_may_cover_two_tables(tmp_path):
    path = tmp_path / "a.qcow2"
    with closing(Qcow2Disk.create(path, 2 * TABLE)) as disk:
        put(disk, (TABLE - 2 * GRAIN, b"\7" * 4 * GRAIN))
        disk.flush()
    check(path)
    io(path, f"read -P 7 {TABLE - 2 * GRAIN} 256k", f"read -P 0 {TABLE + 2 * GRAIN} 256k")
    with Chain.open(path) as chain:
        assert chain.map.data_ranges().tolist() == [[TABLE - 2 * GRAIN, 4 * GRAIN]]


# --------------------------------------------------------------------------- identity, links


def test_a_child_names_its_parent_by_path_and_format_and_by_our_extension(tmp_path):
    shelf = Shelf(tmp_path, MIB, "qcow2")
    parent, child = shelf.add("a.qcow2"), shelf.add("b.qcow2")
    layer = qemu.chain(child)[0]
    assert (layer["backing-filename"], layer["backing-filename-format"]) == ("a.qcow2", "qcow2")
    assert uuid.UUID(identity(child).disk_id).version == 4
    assert identity(child).parent_id == identity(parent).disk_id
    assert identity(child).parent_content_id == identity(parent).content_id
    assert identity(child).content_id != identity(parent).content_id
    assert identity(parent).parent_id is None
    assert reference(parent, "qcow2").proves


def test_our_extension_is_where_its_documentation_says(tmp_path):
    path = Shelf(tmp_path, MIB, "qcow2").add("a.qcow2")
    with path.open("rb") as file:
        file.seek(112)
        magic, length, version, sector = struct.unpack(">4s3I", file.read(16))
    assert (magic, length, version, sector) == (b"VDBI", 120, 1, 512)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("raw", "raw"), ("vmdk", "vmdk"), ("vhd", "vpc"), ("vhdx", "vhdx"), (None, "qcow2")],
)
def test_a_parent_in_another_format_is_named_as_qemu_calls_it(tmp_path, ours, theirs):
    path = tmp_path / "child.qcow2"
    wanted = ParentRef(None, "", "base.img", disk_format=ours)
    Qcow2Disk.create(path, MIB, wanted).close()
    assert first_cluster(path).extension(0xE2792ACA) == theirs.encode()
    with closing(Qcow2Disk.open(path)) as disk:
        assert disk.info.parent == wanted
        assert disk.info.parent.disk_format == (ours or "qcow2")


def test_a_raw_parent_is_read_through_by_us_and_by_qemu(tmp_path):
    (tmp_path / "base.img").write_bytes(noise(MIB, 1))
    path = tmp_path / "child.qcow2"
    parent = ParentRef(None, "", "base.img", disk_format="raw")
    with closing(Qcow2Disk.create(path, MIB, parent)) as disk:
        put(disk, (GRAIN, noise(GRAIN, 2)), (2 * GRAIN, GRAIN))
        disk.flush()
    wanted = bytearray(noise(MIB, 1))
    wanted[GRAIN : 3 * GRAIN] = noise(GRAIN, 2) + bytes(GRAIN)
    (tmp_path / "wanted.raw").write_bytes(wanted)
    assert contents(path, "qcow2") == wanted
    qemu.assert_holds(path, tmp_path / "wanted.raw", "qcow2")


def test_qemu_preserves_our_extension_whatever_it_writes(tmp_path):
    shelf = Shelf(tmp_path, MIB, "qcow2")
    shelf.add("a.qcow2")
    child = shelf.add("b.qcow2")
    before = identity(child)
    io(child, "write -P 7 0 3k")
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "./a.qcow2", "-F", "qcow2", child)
    qemu_img("amend", "-f", "qcow2", "-o", "lazy_refcounts=on", child)
    assert identity(child) == before
    assert first_cluster(child).extension(0x6803F857)  # QEMU has been there


def test_relinking_changes_nothing_behind_the_first_cluster(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN, "qcow2")
    shelf.add("a.qcow2", (0, noise(4 * GRAIN, 1)))
    child = shelf.add("b.qcow2", (GRAIN, noise(GRAIN, 2)))
    before, data = identity(child), child.read_bytes()
    parent = ParentRef(str(uuid.uuid4()), "12345678", "other.qcow2")
    with closing(Qcow2Disk.open(child, writable=True)) as disk:
        disk.relink(parent)
    after = identity(child)
    assert (after.disk_id, after.content_id) == (before.disk_id, before.content_id)
    assert (after.parent_id, after.parent_content_id) == (parent.disk_id, parent.content_id)
    assert child.read_bytes()[GRAIN:] == data[GRAIN:]


def test_a_disk_that_qemu_has_written_to_is_relinked_with_its_data(tmp_path):
    """An overlay in which a virtual machine was: QEMU has put other extensions into the header."""
    shelf = Shelf(tmp_path, 8 * GRAIN, "qcow2")
    base = shelf.add("a.qcow2", (0, noise(8 * GRAIN, 1)))
    overlay = shelf.add("b.qcow2")
    qemu_img("amend", "-f", "qcow2", "-o", "lazy_refcounts=off", overlay)
    io(overlay, "write -P 7 100k 3k", "write -P 8 300k 70k", "discard 0 64k")
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", overlay)
    shelf.note((100 << 10, b"\7" * (3 << 10)), (300 << 10, b"\10" * (70 << 10)))
    shelf.raw[:GRAIN] = contents(overlay, "qcow2")[:GRAIN]
    base.rename(tmp_path / "renamed.qcow2")
    with closing(Qcow2Disk.open(overlay, writable=True)) as disk:
        disk.relink(reference(tmp_path / "renamed.qcow2", "qcow2"))
    assert contents(overlay, "qcow2") == shelf.raw
    qemu.assert_holds(overlay, shelf.raw_file(), "qcow2")
    check(overlay)
    assert qemu.chain_names(overlay) == ["b.qcow2", "renamed.qcow2"]


def test_an_overlay_that_qemu_made_is_relinked_and_written_to(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN, "qcow2")
    base = shelf.add("a.qcow2", (0, noise(8 * GRAIN, 1)))
    overlay = tmp_path / "b.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", overlay)
    io(overlay, "write -P 7 100k 3k")
    base.rename(tmp_path / "renamed.qcow2")
    with closing(Qcow2Disk.open(overlay, writable=True)) as disk:
        assert (disk.info.disk_id, disk.info.content_id) == (None, "")
        disk.relink(reference(tmp_path / "renamed.qcow2", "qcow2"))
        put(disk, (4 * GRAIN, noise(GRAIN, 2)), (6 * GRAIN, GRAIN))
        disk.flush()
    shelf.note((100 << 10, b"\7" * (3 << 10)), (4 * GRAIN, noise(GRAIN, 2)), (6 * GRAIN, GRAIN))
    shelf.names = ["renamed.qcow2", "b.qcow2"]
    assert_everybody_reads(shelf)


def test_another_programs_extension_survives_and_unknown_autoclear_bits_do_not(tmp_path):
    shelf = Shelf(tmp_path, MIB, "qcow2")
    shelf.add("a.qcow2", (0, noise(GRAIN, 1)))
    child = shelf.add("b.qcow2")
    data = bytearray(child.read_bytes())
    at = data.index(bytes(8), 112 + 16 + 128)  # the end of the extensions
    data[at : at + 16] = struct.pack(">II5s3x", 0x58595A30, 5, b"other")
    data[88:96] = (1 << 40).to_bytes(8)
    child.write_bytes(data)
    Qcow2Disk.open(child).close()
    assert first_cluster(child).header.autoclear == 1 << 40
    with closing(Qcow2Disk.open(child, writable=True)) as disk:
        assert first_cluster(child).header.autoclear == 0
        disk.relink(reference(tmp_path / "a.qcow2", "qcow2"))
    assert first_cluster(child).extension(0x58595A30) == b"other"
    assert first_cluster(child).extension(IDENTITY)
    assert_everybody_reads(shelf)


def test_a_name_that_looks_like_a_protocol_is_understood_as_a_file_by_everybody(tmp_path):
    shelf = Shelf(tmp_path, MIB, "qcow2")
    shelf.add("nbd:a.qcow2", (0, noise(MIB, 1)))
    child = shelf.add("b.qcow2", (GRAIN, noise(GRAIN, 2)))
    with closing(Qcow2Disk.open(child)) as disk:
        assert disk.info.parent == reference(tmp_path / "nbd:a.qcow2", "qcow2")
    assert_everybody_reads(shelf)


# --------------------------------------------------------------------------- power cuts


@pytest.mark.parametrize("operation", ["relink", "adopt"])
def test_the_switch_to_a_new_header_is_one_sector_and_nothing_it_names_is_written_with_it(
    tmp_path, operation
):
    shelf = Shelf(tmp_path, MIB, "qcow2")
    shelf.add("a.qcow2")
    child = shelf.add("b.qcow2")
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", child)
    with recorded(child) as recorder, opened(child, "qcow2", writable=True) as disk:
        if operation == "relink":
            disk.relink(ParentRef(None, "", "new.qcow2"))
        else:
            disk.adopt(str(uuid.uuid4()), "1234")
    [(name_at, _)], [(switch_at, switch)], not_durable = recorder.batches
    assert (name_at, switch_at) == (4096, 0)
    assert len(switch) == 512
    assert not not_durable


@pytest.mark.parametrize("used", [4, 32768 - 9])
def test_a_power_cut_that_loses_any_sectors_of_a_flush_harms_nothing_that_was_there(tmp_path, used):
    """An L2 table changes, another is new; with a file of almost 2 GiB, a refcount block, too."""
    size = 5 * TABLE
    base, path = (tmp_path / name for name in ("a.qcow2", "b.qcow2"))
    Qcow2Disk.create(base, size).close()
    with closing(Qcow2Disk.create(path, size, reference(base, "qcow2"))) as disk:
        put(disk, (0, used * GRAIN), *((n * GRAIN, noise(GRAIN, n)) for n in range(4)))
        disk.flush()
    new = {n: noise(GRAIN, 100 + n) for n in (1, 32766, *range(32768, 32774))}
    old = {n: noise(GRAIN, n) if n < 4 else bytes(GRAIN) for n in (0, 2, 3, 4, 32767, *new)}
    with recorded(path) as recorder:
        change(path, "qcow2", *((n * GRAIN, data) for n, data in new.items()))
    leaks = 0
    for _ in recorder.any_sectors(seed=1):
        done = subprocess.run(
            ["qemu-img", "check", "-q", "-f", "qcow2", path], check=False, capture_output=True
        )
        assert done.returncode in (0, 3), done.stderr  # 3: leaks, and nothing else
        leaks += done.returncode == 3
        with Chain.open(path) as chain:
            for number, were in old.items():
                data = bytearray(GRAIN)
                chain.readinto(number * GRAIN, memoryview(data))
                # the sectors of the one that was there were being written over
                assert number == 1 or data in (were, new.get(number))
        change(path, "qcow2", *((n * GRAIN, data) for n, data in new.items()))
        check(path)
        with Chain.open(path) as chain:
            for number, were in old.items():
                chain.readinto(number * GRAIN, memoryview(data))
                assert data == new.get(number, were)
    assert leaks


# --------------------------------------------------------------------------- limits


def test_a_file_beyond_2_gib_counts_its_clusters_in_a_second_refcount_block(tmp_path):
    size = 5 << 30
    base, path = tmp_path / "a.qcow2", tmp_path / "b.qcow2"
    with closing(Qcow2Disk.create(base, size)) as disk:
        disk.flush()
    with closing(Qcow2Disk.create(path, size, reference(base, "qcow2"))) as disk:
        for at in range(0, size, 1 << 30):
            disk.zero(at, 1 << 30)  # holes: nothing is written but tables
            disk.flush()
    assert path.stat().st_size > size
    check(path)
    change(path, "qcow2", (size - GRAIN, b"\5" * GRAIN))
    check(path)
    io(path, f"read -P 5 {size - GRAIN} 64k", f"read -P 0 {size - 2 * GRAIN} 64k")
