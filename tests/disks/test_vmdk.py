"""VMDK as we write it: QEMU and libvmdk read it right, and its structures are what they must be."""

from __future__ import annotations

import struct
import subprocess
import threading
import uuid
from pathlib import Path

import pytest

from tests.disks.shelf import GRAIN, MIB, Shelf, contents, noise, put, reference
from tests.oracles import libvmdk, qemu
from vdbackup.disks.disk import ParentRef
from vdbackup.disks.extents import State, total
from vdbackup.disks.formats import create_disk
from vdbackup.disks.vmdk import VmdkDisk
from vdbackup.disks.vmdk_structs import SparseExtentHeader
from vdbackup.errors import DiskError

TABLE = 32 * MIB  # bytes of disk that one grain table stands for
SIZES = [512, GRAIN - 512, GRAIN, MIB, MIB + 512, 3 * GRAIN - 512, TABLE, TABLE + 512]


def descriptor(path: Path) -> dict[str, str]:
    """The entries of the descriptor, as they stand in the file."""
    with path.open("rb") as file:
        file.seek(512)
        text = file.read(20 * 512).split(b"\0", 1)[0].decode()
    lines = [line for line in text.splitlines() if "=" in line]
    return {name.strip(): value.strip() for name, value in (line.split("=", 1) for line in lines)}


def tables(path: Path, directory: str) -> list[bytes]:
    """The grain tables that one of the two directories names."""
    data = path.read_bytes()
    header = SparseExtentHeader.parse(data[:512], path, len(data))
    at = getattr(header, directory) * 512
    places = struct.unpack_from(f"<{header.tables}I", data, at)
    return [data[place * 512 : place * 512 + 2048] for place in places]


def assert_everybody_reads(shelf: Shelf) -> None:
    """We, QEMU and libvmdk, through the names inside the files; and each file is sound."""
    top, raw = shelf.folder / shelf.names[-1], shelf.raw_file()
    assert contents(top) == shelf.raw
    qemu.assert_holds(top, raw)
    libvmdk.assert_holds(top, raw)
    assert qemu.chain_names(top) == libvmdk.chain_names(top) == shelf.names[::-1]
    for name in shelf.names:
        qemu.assert_sound(shelf.folder / name)


@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_of_any_size_is_read_right(tmp_path, size):
    shelf = Shelf(tmp_path, size)
    shelf.add("a.vmdk", (0, noise(size, 1)))
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("size", SIZES)
def test_an_empty_disk_of_any_size_is_all_zeros(tmp_path, size):
    shelf = Shelf(tmp_path, size)
    shelf.add("a.vmdk")
    assert_everybody_reads(shelf)


def test_a_chain_of_several_is_read_right(tmp_path):
    shelf = Shelf(tmp_path, TABLE + 3 * GRAIN + 512)
    end = shelf.size // GRAIN * GRAIN
    shelf.add("a.vmdk", (0, noise(2 * MIB, 1)), (TABLE - GRAIN, noise(2 * GRAIN, 2)))
    shelf.add("b.vmdk", (MIB, noise(GRAIN, 3)), (end, noise(512, 4)))
    shelf.add("c.vmdk", (0, GRAIN), (TABLE, noise(GRAIN, 5)), (4 * MIB, noise(GRAIN, 6)))
    shelf.add("d.vmdk")
    assert_everybody_reads(shelf)


def test_zeros_hide_what_the_parent_has(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN)
    shelf.add("a.vmdk", (0, noise(4 * GRAIN, 1)))
    shelf.add("b.vmdk", (GRAIN, 2 * GRAIN))
    assert_everybody_reads(shelf)


def test_zeros_over_a_parent_are_real_grains_because_libvmdk_knows_no_others(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN)
    shelf.add("a.vmdk", (0, noise(4 * GRAIN, 1)))
    path = shelf.add("b.vmdk", (GRAIN, 2 * GRAIN))
    entries = struct.unpack("<512I", tables(path, "directory")[0])
    assert [entry > 1 for entry in entries[:4]] == [False, True, True, False]


def test_zeros_in_a_disk_without_parent_take_no_room(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN)
    path = shelf.add("a.vmdk", (0, 4 * GRAIN))
    assert not any(tables(path, "directory")[0])
    assert_everybody_reads(shelf)


def test_zeros_over_own_data_are_written_in_place(tmp_path):
    shelf = Shelf(tmp_path, 40 * GRAIN)
    path = shelf.add("a.vmdk", (0, noise(40 * GRAIN, 1)))
    size = path.stat().st_size
    disk = VmdkDisk.open(path, writable=True)
    disk.zero(GRAIN, 38 * GRAIN)
    disk.flush()
    disk.close()
    shelf.note((GRAIN, 38 * GRAIN))
    assert path.stat().st_size == size
    assert_everybody_reads(shelf)


def test_writes_after_opening_go_in_place_or_behind_the_end(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN)
    path = shelf.add("a.vmdk", (GRAIN, noise(2 * GRAIN, 1)))
    size = path.stat().st_size
    writes = [(2 * GRAIN, noise(GRAIN, 2)), (4 * GRAIN, noise(GRAIN, 3)), (0, noise(GRAIN, 4))]
    disk = VmdkDisk.open(path, writable=True)
    put(disk, *writes)
    disk.flush()
    disk.close()
    shelf.note(*writes)
    assert path.stat().st_size == size + 2 * GRAIN
    assert_everybody_reads(shelf)


def test_one_write_may_cover_grains_that_are_there_and_others(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN + 512)
    path = shelf.add("a.vmdk", (GRAIN, noise(GRAIN, 1)), (5 * GRAIN, noise(GRAIN, 2)))
    disk = VmdkDisk.open(path, writable=True)
    put(disk, (0, noise(shelf.size, 3)))
    disk.flush()
    disk.close()
    shelf.note((0, noise(shelf.size, 3)))
    assert_everybody_reads(shelf)


def test_what_was_not_flushed_is_not_there(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN)
    path = shelf.add("a.vmdk", (GRAIN, noise(GRAIN, 1)))
    disk = VmdkDisk.open(path, writable=True)
    put(disk, (3 * GRAIN, noise(GRAIN, 2)))
    disk.close()
    assert_everybody_reads(shelf)


def test_a_file_that_was_cut_off_while_written_is_written_on_without_harm(tmp_path):
    """Grains that no table names, one of them half written, lie at the end."""
    shelf = Shelf(tmp_path, 8 * GRAIN)
    path = shelf.add("a.vmdk", (GRAIN, noise(GRAIN, 1)))
    with path.open("ab") as file:
        file.write(noise(GRAIN + 1234, 9))
    disk = VmdkDisk.open(path, writable=True)
    put(disk, (3 * GRAIN, GRAIN), (5 * GRAIN, noise(GRAIN, 2)))
    disk.flush()
    disk.close()
    shelf.note((3 * GRAIN, GRAIN), (5 * GRAIN, noise(GRAIN, 2)))
    assert_everybody_reads(shelf)


def test_zeros_are_zeros_even_where_a_cut_off_write_left_something(tmp_path):
    shelf = Shelf(tmp_path, 8 * GRAIN)
    shelf.add("a.vmdk", (0, noise(8 * GRAIN, 1)))
    path = shelf.add("b.vmdk", (GRAIN, noise(GRAIN, 2)))
    with path.open("ab") as file:
        file.write(noise(3 * GRAIN + 1234, 9))
    disk = VmdkDisk.open(path, writable=True)
    put(disk, (3 * GRAIN, 4 * GRAIN))
    disk.flush()
    disk.close()
    shelf.note((3 * GRAIN, 4 * GRAIN))
    assert_everybody_reads(shelf)


def test_several_threads_may_write_at_once(tmp_path):
    shelf = Shelf(tmp_path, 64 * GRAIN)
    path = tmp_path / "a.vmdk"
    disk = VmdkDisk.create(path, shelf.size)
    writes = [(number * GRAIN, noise(GRAIN, number)) for number in range(64)]
    threads = [threading.Thread(target=put, args=(disk, *writes[n::4])) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    disk.flush()
    disk.close()
    shelf.names.append("a.vmdk")
    shelf.note(*writes)
    assert_everybody_reads(shelf)


def test_both_directories_name_tables_of_the_same_contents(tmp_path):
    shelf = Shelf(tmp_path, 3 * TABLE)
    path = shelf.add("a.vmdk", (0, noise(GRAIN, 1)), (TABLE + GRAIN, noise(GRAIN, 2)))
    disk = VmdkDisk.open(path, writable=True)
    put(disk, (2 * TABLE, noise(GRAIN, 3)), (GRAIN, noise(GRAIN, 4)))
    disk.flush()
    disk.close()
    assert tables(path, "directory") == tables(path, "redundant_directory")
    assert [any(table) for table in tables(path, "directory")] == [True, True, True]


def test_grains_lie_at_multiples_of_64_kib_in_the_file(tmp_path):
    shelf = Shelf(tmp_path, 2 * TABLE)
    path = shelf.add("a.vmdk", (GRAIN, noise(3 * GRAIN, 1)), (TABLE, noise(GRAIN, 2)))
    entries = struct.unpack("<1024I", b"".join(tables(path, "directory")))
    assert [entry % 128 for entry in entries if entry] == [0] * 4


def test_a_map_shows_data_zeros_and_what_the_parent_answers(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN)
    base = shelf.add("a.vmdk", (GRAIN, noise(GRAIN, 1)))
    child = shelf.add("b.vmdk", (2 * GRAIN, noise(GRAIN, 1)))

    def states(path: Path) -> list[tuple[int, State]]:
        disk = VmdkDisk.open(path)
        found = [(extent.length // GRAIN, extent.state) for extent in disk.block_map().extents()]
        disk.close()
        return found

    assert states(base) == [(1, State.ZERO), (1, State.DATA), (2, State.ZERO)]
    assert states(child) == [(2, State.UNALLOCATED), (1, State.DATA), (1, State.UNALLOCATED)]


# --------------------------------------------------------------------------- identity, links


def test_a_child_names_its_parent_as_qemu_and_virtualbox_want_it(tmp_path):
    shelf = Shelf(tmp_path, MIB)
    parent = descriptor(shelf.add("a.vmdk"))
    child = descriptor(shelf.add("b.vmdk"))
    assert parent["parentCID"] == "ffffffff"
    assert "parentFileNameHint" not in parent
    assert "ddb.uuid.parent" not in parent
    assert child["parentCID"] == parent["CID"]
    assert child["parentFileNameHint"] == '"a.vmdk"'
    assert child["ddb.uuid.parent"] == parent["ddb.uuid.image"]
    assert child["ddb.uuid.parentmodification"] == parent["ddb.uuid.modification"]
    for fields in (parent, child):
        assert fields["createType"] == '"monolithicSparse"'
        assert int(fields["CID"], 16) not in (0, 0xFFFFFFFE, 0xFFFFFFFF)
        assert uuid.UUID(fields["ddb.uuid.image"].strip('"')).version == 4


def test_the_extent_line_bears_the_files_final_name(tmp_path):
    disk = VmdkDisk.create(tmp_path / "0001-full.vmdk.partial", MIB)
    disk.close()
    text = (tmp_path / "0001-full.vmdk.partial").read_bytes()[512:10752].decode()
    assert f'RW {MIB // 512} SPARSE "0001-full.vmdk"' in text.splitlines()


def test_no_blank_line_stands_before_the_extent_line(tmp_path):
    """QEMU would take the extent twice."""
    VmdkDisk.create(tmp_path / "a.vmdk", MIB).close()
    lines = (tmp_path / "a.vmdk").read_bytes()[512:10752].decode().splitlines()
    extent = next(number for number, line in enumerate(lines) if line.startswith("RW "))
    assert lines[extent - 1].strip()


def test_two_disks_have_two_identities(tmp_path):
    infos = []
    for name in ("a.vmdk", "b.vmdk"):
        disk = VmdkDisk.create(tmp_path / name, MIB)
        infos.append(disk.info)
        disk.close()
    assert infos[0].disk_id != infos[1].disk_id
    assert infos[0].content_id != infos[1].content_id


def test_a_relinked_child_reads_through_its_new_parent(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN)
    base = shelf.add("a.vmdk", (0, noise(4 * GRAIN, 1)))
    (tmp_path / "renamed.vmdk").write_bytes(base.read_bytes())
    child = shelf.add("b.vmdk", (GRAIN, noise(GRAIN, 2)))
    base.unlink()
    disk = VmdkDisk.open(child, writable=True)
    disk.relink(reference(tmp_path / "renamed.vmdk"))
    assert disk.info.parent == reference(tmp_path / "renamed.vmdk")
    disk.close()
    shelf.names[0] = "renamed.vmdk"
    assert_everybody_reads(shelf)


def test_relinking_changes_neither_data_nor_the_disks_own_identity(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN)
    shelf.add("a.vmdk", (0, noise(4 * GRAIN, 1)))
    child = shelf.add("b.vmdk", (GRAIN, noise(GRAIN, 2)))
    before, data = descriptor(child), child.read_bytes()
    disk = VmdkDisk.open(child, writable=True)
    disk.relink(ParentRef(str(uuid.uuid4()), "12345678", "other.vmdk"))
    disk.close()
    after = descriptor(child)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "parentCID",
        "parentFileNameHint",
        "ddb.uuid.parent",
        "ddb.uuid.parentmodification",
    }
    assert child.read_bytes()[:512] == data[:512]
    assert child.read_bytes()[21 * 512 :] == data[21 * 512 :]


def test_a_disk_that_adopts_an_identity_is_found_by_the_others_children(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN)
    shelf.add("a.vmdk", (0, noise(4 * GRAIN, 1)))
    middle = shelf.add("b.vmdk", (GRAIN, noise(GRAIN, 2)))
    shelf.add("c.vmdk", (2 * GRAIN, noise(GRAIN, 3)))
    disk = VmdkDisk.open(middle)
    identity = disk.info
    disk.close()
    merged = VmdkDisk.open(tmp_path / "a.vmdk", writable=True)
    merged.write(GRAIN, memoryview(noise(GRAIN, 2)))
    merged.flush()
    merged.adopt(identity.disk_id, identity.content_id)
    assert merged.info.disk_id == identity.disk_id
    merged.close()
    (tmp_path / "a.vmdk").rename(middle)
    shelf.names = ["b.vmdk", "c.vmdk"]
    assert_everybody_reads(shelf)
    assert (
        descriptor(middle)["ddb.uuid.modification"]
        == (descriptor(tmp_path / "c.vmdk")["ddb.uuid.parentmodification"])
    )


def test_a_disk_that_qemu_has_written_to_is_relinked_with_its_data(tmp_path):
    """An overlay in which a virtual machine was: QEMU has changed CID, tables and data."""
    shelf = Shelf(tmp_path, 8 * GRAIN)
    base = shelf.add("a.vmdk", (0, noise(8 * GRAIN, 1)))
    overlay = shelf.add("b.vmdk")
    qemu.io(overlay, "write -P 7 100k 3k", "write -P 8 300k 70k")
    shelf.note((100 << 10, b"\7" * (3 << 10)), (300 << 10, b"\10" * (70 << 10)))
    base.rename(tmp_path / "renamed.vmdk")
    disk = VmdkDisk.open(overlay, writable=True)
    disk.relink(reference(tmp_path / "renamed.vmdk"))
    disk.close()
    shelf.names[0] = "renamed.vmdk"
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("name", ['quote".vmdk', "line\nbreak.vmdk"])
def test_a_name_that_would_forge_descriptor_entries_is_refused(tmp_path, name):
    with pytest.raises(DiskError) as refusal:
        VmdkDisk.create(tmp_path / name, MIB)
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- limits


def test_two_tebibytes_are_too_large_and_the_refusal_leaves_no_file(tmp_path):
    with pytest.raises(DiskError, match="too large for VMDK") as refusal:
        create_disk(tmp_path / "large.vmdk", "vmdk", 2 << 40)
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


def test_the_largest_disk_holds_a_grain_at_its_end(tmp_path):
    size = (2 << 40) - (1 << 30)
    path = tmp_path / "large.vmdk"
    disk = VmdkDisk.create(path, size)
    disk.write(size - GRAIN, memoryview(noise(GRAIN, 1)))
    disk.flush()
    disk.close()
    assert path.stat().st_blocks * 512 < 2 * MIB
    assert qemu.chain(path)[0]["virtual-size"] == size
    pattern = qemu.io(path, f"read -v {size - 512} 512")
    assert noise(GRAIN, 1)[-16:].hex(" ") in pattern
    disk = VmdkDisk.open(path)
    assert total(disk.block_map().data_ranges()) == GRAIN
    disk.close()


def test_a_file_that_exists_is_never_written_over(tmp_path):
    (tmp_path / "a.vmdk").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        VmdkDisk.create(tmp_path / "a.vmdk", MIB)
    assert (tmp_path / "a.vmdk").read_bytes() == b"precious"


def test_a_disk_that_vmdk_tools_resized_or_moved_is_still_found_by_its_magic(tmp_path):
    shelf = Shelf(tmp_path, MIB)
    path = shelf.add("no-suffix", (0, noise(MIB, 1)))
    done = subprocess.run(
        ["qemu-img", "info", path], check=True, capture_output=True, text=True
    ).stdout
    assert "file format: vmdk" in done
    assert contents(path, None) == shelf.raw
