"""What is special to VMDK as we write it; what holds for each format is in test_formats.py."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from tests.disks.everybody import assert_everybody_reads
from tests.disks.shelf import GRAIN, MIB, Shelf, opened, put, reference
from tests.noise import noise
from tests.oracles import qemu
from vdbackup.disks.disk import ParentRef
from vdbackup.disks.vmdk.disk import MAX_SIZE, VmdkDisk
from vdbackup.disks.vmdk.structs import SECTOR, Descriptor, SparseExtentHeader
from vdbackup.errors import DiskError

TABLE = 32 * MIB  # bytes of disk that one grain table stands for


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


@pytest.mark.parametrize("size", [TABLE, TABLE + 512])
def test_a_full_disk_that_ends_with_a_table_or_behind_it_is_read_right(tmp_path, size):
    shelf = Shelf(tmp_path, size)
    shelf.layer((0, noise(size, 1)))
    assert_everybody_reads(shelf)


def test_zeros_over_a_parent_are_real_grains_because_libvmdk_knows_no_others(tmp_path):
    shelf = Shelf(tmp_path, 4 * GRAIN)
    shelf.add("a.vmdk", (0, noise(4 * GRAIN, 1)))
    path = shelf.add("b.vmdk", (GRAIN, 2 * GRAIN))
    entries = struct.unpack("<512I", tables(path, "directory")[0])
    assert [entry > 1 for entry in entries[:4]] == [False, True, True, False]


def test_both_directories_name_tables_of_the_same_contents(tmp_path):
    shelf = Shelf(tmp_path, 3 * TABLE)
    path = shelf.add("a.vmdk", (0, noise(GRAIN, 1)), (TABLE + GRAIN, noise(GRAIN, 2)))
    disk = VmdkDisk.open(path, writable=True)
    put(disk, (2 * TABLE, noise(GRAIN, 3)), (GRAIN, noise(GRAIN, 4)))
    disk.flush()
    disk.close()
    assert tables(path, "directory") == tables(path, "redundant_directory")
    assert [any(table) for table in tables(path, "directory")] == [True, True, True]


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


def test_relinking_changes_four_entries_of_the_descriptor_and_nothing_else(tmp_path):
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


def test_what_a_new_parent_changes_in_a_descriptor_lies_in_its_first_sector():
    """So that a power cut leaves one or the other; also with the longest names and the largest."""
    ids = [str(uuid.UUID(int=number)) for number in (1, 2, 3)]
    names = ["00001-full.vmdk", "99999-differential.vmdk"]
    one, other = (
        Descriptor(MAX_SIZE, "99999-differential.vmdk", "1", ids[0], cid, parent_id, name).pack()
        for cid, parent_id, name in zip(("2", "ffffffff"), ids[1:], names, strict=True)
    )
    assert one[:SECTOR] != other[:SECTOR]
    assert one[SECTOR:] == other[SECTOR:]


def test_children_find_an_adopted_identity_in_all_its_entries(tmp_path):
    shelf = Shelf(tmp_path, MIB)
    other, child = shelf.layer(), shelf.layer()
    path = Shelf(tmp_path, MIB).add("merged.vmdk")
    wanted = reference(other)
    with opened(path, "vmdk", writable=True) as disk:
        disk.adopt(wanted.disk_id, wanted.content_id)
    assert descriptor(path)["CID"] == descriptor(child)["parentCID"]
    assert descriptor(path)["ddb.uuid.image"] == descriptor(child)["ddb.uuid.parent"]
    modification = descriptor(path)["ddb.uuid.modification"]
    assert modification == descriptor(child)["ddb.uuid.parentmodification"]


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
