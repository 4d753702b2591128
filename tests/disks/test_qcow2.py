"""QCOW2 as we write it: QEMU and libqcow read it right, and `qemu-img check` finds it clean."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crash import faults
from tests.disks.shelf import GRAIN, MIB, Shelf, Write, contents, noise, put, reference
from tests.oracles import libqcow, qemu
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import ParentRef
from vdbackup.disks.extents import State, total
from vdbackup.disks.formats import create_disk
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.qcow2 import LARGEST, Qcow2Disk
from vdbackup.disks.qcow2_structs import IDENTITY, HeaderCluster, Identity
from vdbackup.errors import DiskError, ParentError

TABLE = 512 * MIB  # bytes of disk that one L2 table stands for
SIZES = [512, GRAIN - 512, GRAIN, MIB, MIB + 512, 3 * GRAIN - 512]


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


def assert_everybody_reads(shelf: Shelf) -> None:
    """We, QEMU and libqcow, through the names inside the files; and each file is sound."""
    top, raw = shelf.folder / shelf.names[-1], shelf.raw_file()
    assert contents(top, "qcow2") == shelf.raw
    qemu.assert_holds(top, raw, "qcow2")
    libqcow.assert_holds(top, raw)
    assert qemu.chain_names(top) == libqcow.chain_names(top) == shelf.names[::-1]
    for name in shelf.names:
        check(shelf.folder / name)


def change(path: Path, *writes: tuple[int, bytes | int]) -> None:
    with closing(Qcow2Disk.open(path, writable=True)) as disk:
        put(disk, *writes)
        disk.flush()


@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_of_any_size_is_read_right(tmp_path, size):
    shelf = Shelf(tmp_path, size, "qcow2")
    shelf.add("a.qcow2", (0, noise(size, 1)))
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("size", SIZES)
def test_an_empty_disk_of_any_size_is_all_zeros(tmp_path, size):
    shelf = Shelf(tmp_path, size, "qcow2")
    shelf.add("a.qcow2")
    assert_everybody_reads(shelf)


def test_a_chain_with_zeros_over_data_is_read_right_in_each_of_its_layers(tmp_path):
    shelf = Shelf(tmp_path, 67_129_344, "qcow2")
    end = shelf.size // GRAIN * GRAIN
    for name, writes in {
        "base.qcow2": [(0, noise(2 * MIB, 1)), (end, noise(shelf.size - end, 2))],
        "c1.qcow2": [(GRAIN, 3 * GRAIN), (MIB, noise(GRAIN, 3)), (end, shelf.size - end)],
        "c2.qcow2": [(0, GRAIN), (2 * GRAIN, noise(GRAIN, 4)), (32 * MIB, noise(MIB, 5))],
        "empty.qcow2": [],
    }.items():
        shelf.add(name, *writes)
        assert_everybody_reads(shelf)


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


def test_zeros_in_a_disk_without_parent_take_no_room(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN, "qcow2")
    path = shelf.add("a.qcow2", (0, 4 * GRAIN))
    empty = Shelf(tmp_path, 4 * GRAIN, "qcow2").add("b.qcow2")
    assert path.stat().st_size == empty.stat().st_size
    assert_everybody_reads(shelf)


def test_zeros_over_own_data_are_written_in_place(tmp_path):
    shelf = Shelf(tmp_path, 40 * GRAIN, "qcow2")
    path = shelf.add("a.qcow2", (0, noise(40 * GRAIN, 1)))
    size = path.stat().st_size
    change(path, (GRAIN, 38 * GRAIN))
    shelf.note((GRAIN, 38 * GRAIN))
    assert path.stat().st_size == size
    assert_everybody_reads(shelf)


def test_zeros_and_data_over_zero_flags_that_qemu_set_are_read_right(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN, "qcow2")
    shelf.add("a.qcow2", (0, noise(8 * GRAIN, 1)))
    path = shelf.add("b.qcow2", (0, noise(4 * GRAIN, 2)))
    io(path, "write -z 0 256k", "write -z -u 256k 256k")
    shelf.note((0, 8 * GRAIN))
    writes = [(n * GRAIN, GRAIN if n % 2 else noise(GRAIN, n)) for n in range(8)]
    change(path, *writes)
    shelf.note(*writes)
    assert_everybody_reads(shelf)


def test_writes_after_opening_go_in_place_or_behind_the_end(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN, "qcow2")
    path = shelf.add("a.qcow2", (GRAIN, noise(2 * GRAIN, 1)))
    size = path.stat().st_size
    writes = [(2 * GRAIN, noise(GRAIN, 2)), (4 * GRAIN, noise(GRAIN, 3)), (0, noise(GRAIN, 4))]
    change(path, *writes)
    shelf.note(*writes)
    assert path.stat().st_size == size + 2 * GRAIN
    assert_everybody_reads(shelf)


def test_one_write_may_cover_clusters_that_are_there_and_others(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN + 512, "qcow2")
    path = shelf.add("a.qcow2", (GRAIN, noise(GRAIN, 1)), (5 * GRAIN, noise(GRAIN, 2)))
    change(path, (0, noise(shelf.size, 3)))
    shelf.note((0, noise(shelf.size, 3)))
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


def test_what_was_not_flushed_is_not_there(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN, "qcow2")
    path = shelf.add("a.qcow2", (GRAIN, noise(GRAIN, 1)))
    disk = Qcow2Disk.open(path, writable=True)
    put(disk, (3 * GRAIN, noise(GRAIN, 2)))
    disk.close()
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("writes", [[(3 * GRAIN, 4 * GRAIN)], [(0, GRAIN), (GRAIN, b"\1" * GRAIN)]])
def test_a_file_that_was_cut_off_while_written_is_written_on_without_harm(tmp_path, writes):
    """Clusters that no table names, one of them half written, lie at the end."""
    shelf = Shelf(tmp_path, 8 * GRAIN, "qcow2")
    shelf.add("a.qcow2", (0, noise(8 * GRAIN, 1)))
    path = shelf.add("b.qcow2", (GRAIN, noise(GRAIN, 2)))
    with path.open("ab") as file:
        file.write(noise(3 * GRAIN + 1234, 9))
    change(path, *writes)
    shelf.note(*writes)
    assert_everybody_reads(shelf)


def test_several_threads_may_write_at_once(tmp_path):
    shelf = Shelf(tmp_path, 64 * GRAIN, "qcow2")
    path = tmp_path / "a.qcow2"
    disk = Qcow2Disk.create(path, shelf.size)
    writes = [(number * GRAIN, noise(GRAIN, number)) for number in range(64)]
    threads = [threading.Thread(target=put, args=(disk, *writes[n::4])) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    disk.flush()
    disk.close()
    shelf.names.append("a.qcow2")
    shelf.note(*writes)
    assert_everybody_reads(shelf)


def test_clusters_lie_at_multiples_of_64_kib_in_the_file_side_by_side(tmp_path):
    shelf = Shelf(tmp_path, MIB, "qcow2")
    path = shelf.add("a.qcow2", (GRAIN, noise(8 * GRAIN, 1)))
    places = [entry & ~(1 << 63) for entry in entries(path) if entry]
    assert [place - places[0] for place in places] == [n * GRAIN for n in range(8)]
    assert places[0] % GRAIN == 0


def test_a_map_shows_data_zeros_and_what_the_parent_answers_as_of_the_last_flush(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN, "qcow2")
    base = shelf.add("a.qcow2", (GRAIN, noise(GRAIN, 1)))
    child = shelf.add("b.qcow2", (2 * GRAIN, noise(GRAIN, 1)))

    def states(disk: Qcow2Disk) -> list[tuple[int, State]]:
        return [(extent.length // GRAIN, extent.state) for extent in disk.block_map().extents()]

    with closing(Qcow2Disk.open(base)) as disk:
        assert states(disk) == [(1, State.ZERO), (1, State.DATA), (2, State.ZERO)]
    with closing(Qcow2Disk.open(child, writable=True)) as disk:
        wanted = [(2, State.UNALLOCATED), (1, State.DATA), (1, State.UNALLOCATED)]
        assert states(disk) == wanted
        put(disk, (0, noise(4 * GRAIN, 2)))
        assert states(disk) == wanted
        disk.flush()
        assert {state for _, state in states(disk)} == {State.DATA}


def test_what_was_there_is_read_while_something_else_is_written(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN, "qcow2")
    base = shelf.add("a.qcow2", (0, noise(4 * GRAIN, 1)))
    child = shelf.add("b.qcow2", (0, noise(GRAIN, 2)))
    with Chain.open(child) as chain, closing(Qcow2Disk.open(base, writable=True)) as disk:
        put(disk, (0, noise(GRAIN, 2)), (5 * GRAIN, noise(GRAIN, 3)))
        disk.flush()
        data = bytearray(shelf.size)
        chain.readinto(0, memoryview(data))
        assert data == shelf.raw
    shelf.note((5 * GRAIN, noise(GRAIN, 3)))
    assert_everybody_reads(shelf)


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


def test_the_sectors_size_is_kept(tmp_path):
    path = tmp_path / "a.qcow2"
    disk = create_disk(path, "qcow2", MIB, sector_size=4096)
    disk.flush()
    disk.close()
    check(path)
    with closing(Qcow2Disk.open(path)) as disk:
        assert disk.info.sector_size == 4096


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


def test_a_relinked_child_reads_through_its_new_parent(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN, "qcow2")
    base = shelf.add("a.qcow2", (0, noise(4 * GRAIN, 1)))
    child = shelf.add("b.qcow2", (GRAIN, noise(GRAIN, 2)))
    for name in ("renamed.qcow2", "again.qcow2", "and again.qcow2"):
        base = base.rename(tmp_path / name)
        with closing(Qcow2Disk.open(child, writable=True)) as disk:
            disk.relink(reference(base, "qcow2"))
            assert disk.info.parent == reference(base, "qcow2")
        shelf.names[0] = name
        assert_everybody_reads(shelf)


def test_relinking_changes_neither_data_nor_the_disks_own_identity(tmp_path):
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


def test_a_disk_that_adopts_an_identity_is_found_by_the_others_children(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN, "qcow2")
    merged = shelf.add("a.qcow2", (0, noise(4 * GRAIN, 1)))
    middle = shelf.add("b.qcow2", (GRAIN, noise(GRAIN, 2)))
    shelf.add("c.qcow2", (2 * GRAIN, noise(GRAIN, 3)))
    wanted = reference(middle, "qcow2")
    with closing(Qcow2Disk.open(merged, writable=True)) as disk:
        disk.write(GRAIN, memoryview(noise(GRAIN, 2)))
        disk.flush()
        disk.adopt(wanted.disk_id, wanted.content_id)
        assert wanted.means(disk.info)
    merged.rename(middle)
    shelf.names = ["b.qcow2", "c.qcow2"]
    assert_everybody_reads(shelf)


def test_a_parent_that_was_replaced_is_refused(tmp_path):
    shelf = Shelf(tmp_path, GRAIN, "qcow2")
    base, child = shelf.add("a.qcow2"), shelf.add("b.qcow2")
    base.unlink()
    Shelf(tmp_path, GRAIN, "qcow2").add("a.qcow2")
    with pytest.raises(ParentError, match="no longer the disk"):
        Chain.open(child)


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


@pytest.mark.parametrize("name", ["", "x" * 1024, "ü" * 512, "line\nbreak", "\udcff"])
def test_a_parents_name_that_the_format_cannot_hold_is_refused(tmp_path, name):
    with pytest.raises(DiskError) as refusal:
        Qcow2Disk.create(tmp_path / "a.qcow2", MIB, ParentRef(None, "", name))
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


@st.composite
def steps(draw):
    """A write or zeros of whole units, or what comes between such."""
    kind = draw(st.sampled_from(["write", "write", "zero", "flush", "reopen"]))
    first = draw(st.integers(0, 15))
    return kind, first * GRAIN, min(draw(st.integers(1, 6)) * GRAIN, RANDOM_SIZE - first * GRAIN)


RANDOM_SIZE = 15 * GRAIN + 1536


@pytest.mark.parametrize("is_child", [False, True])
@settings(max_examples=30)
@given(st.lists(steps(), max_size=12))
def test_any_writes_in_any_order_are_read_by_everybody(tmp_path_factory, is_child, todo):
    shelf = Shelf(tmp_path_factory.mktemp("any"), RANDOM_SIZE, "qcow2")
    shelf.add("a.qcow2", (0, noise(9 * GRAIN, 1)))
    path = shelf.add("b.qcow2") if is_child else shelf.folder / "a.qcow2"
    disk = Qcow2Disk.open(path, writable=True)
    for number, (kind, offset, length) in enumerate(todo):
        if kind in {"write", "zero"}:
            what = (offset, length if kind == "zero" else noise(length, number))
            put(disk, what)
            shelf.note(what)
        else:
            disk.flush()
        if kind == "reopen":
            disk.close()
            disk = Qcow2Disk.open(path, writable=True)
    disk.flush()
    disk.close()
    assert contents(path, "qcow2") == libqcow.read(path) == shelf.raw
    check(path)


# --------------------------------------------------------------------------- power cuts


def test_a_power_cut_while_relinking_leaves_the_old_parent_or_the_new_one(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN, "qcow2")
    base = shelf.add("a.qcow2", (0, noise(4 * GRAIN, 1)))
    child = shelf.add("b.qcow2", (GRAIN, noise(GRAIN, 2)))
    (tmp_path / "new.qcow2").write_bytes(base.read_bytes())
    parents = [reference(tmp_path / name, "qcow2") for name in ("a.qcow2", "new.qcow2")]
    sound, seen = child.read_bytes(), []
    for at in range(5):
        child.write_bytes(sound)
        with faults.power_cut(at), closing(Qcow2Disk.open(child, writable=True)) as disk:
            disk.relink(parents[1])
        with closing(Qcow2Disk.open(child)) as disk:
            seen.append(parents.index(disk.info.parent))
        assert contents(child, "qcow2") == shelf.raw
        check(child)
    assert seen == sorted(seen)
    assert set(seen) == {0, 1}


@pytest.mark.parametrize("operation", ["relink", "adopt"])
def test_the_switch_to_a_new_header_is_one_sector_and_nothing_it_names_is_written_with_it(
    tmp_path, monkeypatch, operation
):
    shelf = Shelf(tmp_path, MIB, "qcow2")
    shelf.add("a.qcow2")
    child = shelf.add("b.qcow2")
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", child)
    with closing(Qcow2Disk.open(child, writable=True)) as disk:
        log = recorded(monkeypatch)
        if operation == "relink":
            disk.relink(ParentRef(None, "", "new.qcow2"))
        else:
            disk.adopt(str(uuid.uuid4()), "1234")
    name, barrier, switch, last = log
    assert name[0] == 4096
    assert switch[0] == 0
    assert len(switch[1]) == 512
    assert barrier == last == SYNC


SYNC = (0, b"")


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """What is written from now on to host files: places and bytes, and SYNC."""
    log: list[tuple[int, bytes]] = []
    write, sync = HostFile.write, HostFile.sync

    def logged_write(self: HostFile, offset: int, view: memoryview) -> None:
        log.append((offset, bytes(view)))
        write(self, offset, view)

    def logged_sync(self: HostFile) -> None:
        log.append(SYNC)
        sync(self)

    monkeypatch.setattr(HostFile, "write", logged_write)
    monkeypatch.setattr(HostFile, "sync", logged_sync)
    return log


def after_power_cuts(log: list[tuple[int, bytes]], chance: random.Random) -> Iterator[list[Write]]:
    """What may have been written: all up to some barrier, and any sectors of what follows it."""
    done: list[Write] = []
    pending: list[Write] = []
    for offset, data in log:
        pending += [(offset + at, data[at : at + 512]) for at in range(0, len(data), 512)]
        if (offset, data) == SYNC:
            for part in (0.1, 0.5, 0.9):
                yield done + [write for write in pending if chance.random() < part]
            done, pending = done + pending, []
    yield done


@pytest.mark.parametrize("used", [4, 32768 - 9])
def test_a_power_cut_that_loses_any_sectors_of_a_flush_harms_nothing_that_was_there(tmp_path, used):
    """An L2 table changes, another is new; with a file of almost 2 GiB, a refcount block, too."""
    size = 5 * TABLE
    base, path, sound = (tmp_path / name for name in ("a.qcow2", "b.qcow2", "sound.qcow2"))
    Qcow2Disk.create(base, size).close()
    with closing(Qcow2Disk.create(path, size, reference(base, "qcow2"))) as disk:
        put(disk, (0, used * GRAIN), *((n * GRAIN, noise(GRAIN, n)) for n in range(4)))
        disk.flush()
    path.rename(sound)
    new = {n: noise(GRAIN, 100 + n) for n in (1, 32766, *range(32768, 32774))}
    old = {n: noise(GRAIN, n) if n < 4 else bytes(GRAIN) for n in (0, 2, 3, 4, 32767, *new)}
    subprocess.run(["cp", "--sparse=always", sound, path], check=True)
    with pytest.MonkeyPatch.context() as patch:
        log = recorded(patch)
        change(path, *((n * GRAIN, data) for n, data in new.items()))
    leaks = 0
    for writes in after_power_cuts(log, random.Random(1)):
        subprocess.run(["cp", "--sparse=always", sound, path], check=True)
        with path.open("r+b") as file:
            for offset, data in writes:
                os.pwrite(file.fileno(), data, offset)
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
        change(path, *((n * GRAIN, data) for n, data in new.items()))
        check(path)
        with Chain.open(path) as chain:
            for number, were in old.items():
                chain.readinto(number * GRAIN, memoryview(data))
                assert data == new.get(number, were)
    assert leaks


def test_a_storage_that_is_full_during_a_flush_leaves_a_disk_that_is_flushed_later(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN, "qcow2")
    path = shelf.add("a.qcow2", (0, noise(GRAIN, 1)))
    for at in range(12):
        with closing(Qcow2Disk.open(path, writable=True)) as disk:
            put(disk, (GRAIN, noise(7 * GRAIN, at)))
            with faults.storage_error(at) as trouble, suppress(OSError):
                disk.flush()
            disk.flush()
        shelf.note((GRAIN, noise(7 * GRAIN, at)))
        assert_everybody_reads(shelf)
    assert trouble.calls


# --------------------------------------------------------------------------- limits


def test_what_qemu_cannot_open_is_too_large_and_the_refusal_leaves_no_file(tmp_path):
    with pytest.raises(DiskError, match="too large for QCOW2") as refusal:
        create_disk(tmp_path / "large.qcow2", "qcow2", LARGEST + 512)
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [100 << 40, LARGEST])
def test_a_huge_disk_holds_a_cluster_at_its_end_and_is_opened_in_no_time(tmp_path, size):
    path = tmp_path / "large.qcow2"
    started = time.process_time()
    with closing(Qcow2Disk.create(path, size)) as disk:
        disk.write(size - GRAIN, memoryview(b"\5" * GRAIN))
        disk.flush()
    assert path.stat().st_blocks * 512 < 2 * MIB
    with closing(Qcow2Disk.open(path, writable=True)) as disk:
        assert total(disk.block_map().data_ranges()) == GRAIN
    assert time.process_time() - started < 2
    assert qemu.chain(path)[0]["virtual-size"] == size
    check(path)
    io(path, f"read -P 5 {size - GRAIN} 64k", f"read -P 0 {size - 2 * GRAIN} 64k")


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
    change(path, (size - GRAIN, b"\5" * GRAIN))
    check(path)
    io(path, f"read -P 5 {size - GRAIN} 64k", f"read -P 0 {size - 2 * GRAIN} 64k")


def test_a_hundred_nearly_empty_layers_of_a_tebibyte_are_opened_quickly(tmp_path):
    parent = None
    for number in range(100):
        path = tmp_path / f"{number}.qcow2"
        with closing(Qcow2Disk.create(path, 1 << 40, parent)) as disk:
            disk.write(number << 33, memoryview(b"\5" * GRAIN))
            parent = ParentRef(disk.info.disk_id, disk.info.content_id, path.name)
            disk.flush()
    started = time.process_time()
    with Chain.open(path) as chain:
        assert total(chain.map.data_ranges()) == 100 * GRAIN
    assert time.process_time() - started < 0.5


def test_a_file_that_exists_is_never_written_over(tmp_path):
    (tmp_path / "a.qcow2").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        Qcow2Disk.create(tmp_path / "a.qcow2", MIB)
    assert (tmp_path / "a.qcow2").read_bytes() == b"precious"


def test_a_disk_is_found_by_its_magic_whatever_its_name(tmp_path):
    shelf = Shelf(tmp_path, MIB, "qcow2")
    path = shelf.add("no-suffix", (0, noise(MIB, 1)))
    assert qemu.chain(path)[0]["format"] == "qcow2"
    assert contents(path, None) == shelf.raw


def test_a_new_disk_is_its_owners_alone(tmp_path):
    path = Shelf(tmp_path, MIB, "qcow2").add("a.qcow2")
    assert os.stat(path).st_mode & 0o777 == 0o600
