"""A table written for a disk of another size: what util-linux, gdisk and our own reader find."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sources.loops import run
from vdbackup.errors import GuestUnreadable
from vdbackup.volumes.layout import Place
from vdbackup.volumes.partitions import read_table
from vdbackup.volumes.places import Window
from vdbackup.volumes.relaid import DiskTable

MIB = 1 << 20
SIZE = 64 * MIB


class Memory:
    """A disk in memory."""

    def __init__(self, data: bytes, sector_size: int = 512) -> None:
        self.data, self.size, self.sector_size = bytearray(data), len(data), sector_size

    def readinto(self, offset: int, view: memoryview) -> None:
        view[:] = self.data[offset : offset + len(view)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The first MiB and the last of disks with three partitions."""
    made = {}
    for label in ("gpt", "dos"):
        image = tmp_path_factory.mktemp("table") / "disk.img"
        with image.open("wb") as file:
            file.truncate(SIZE)
        run("sfdisk", "-q", image, stdin=f"label: {label}\nsize=8M\nsize=20M\nsize=12M\n")
        made[label] = image.read_bytes()
    return made


def written(disk: Memory, places: dict[int, Place], size: int) -> Memory:
    """The table on an empty disk of that size."""
    table = DiskTable.read(disk)
    assert table is not None
    made = Memory(bytes(size), disk.sector_size)
    for offset, data in table.writes(places, size):
        assert offset + len(data) <= size
        made.data[offset : offset + len(data)] = data
    return made


@given(
    sizes=st.tuples(*[st.integers(1, 30)] * 3),
    gaps=st.tuples(*[st.integers(0, 5)] * 3),
    rest=st.integers(1, 40),
)
def test_our_reader_finds_each_partition_where_it_was_planned(
    tables: dict[str, bytes], sizes: tuple[int, ...], gaps: tuple[int, ...], rest: int
) -> None:
    places, at = {}, 1
    for number, (size, gap) in enumerate(zip(sizes, gaps, strict=True), start=1):
        places[number] = Place((at + gap) * MIB, size * MIB)
        at += gap + size
    size = (at + rest) * MIB
    disk = written(Memory(tables["gpt"]), places, size)
    table = read_table(Window.opened(disk, ((0, size),)), size, 512)
    assert table.whole
    assert {each.number: Place(each.offset, each.size) for each in table.partitions} == places


def test_other_programs_find_nothing_wrong_and_the_same_ids(
    tables: dict[str, bytes], tmp_path: Path
) -> None:
    places = {1: Place(MIB, 8 * MIB), 2: Place(9 * MIB, 90 * MIB), 3: Place(99 * MIB, 12 * MIB)}
    image, before = tmp_path / "larger.img", tmp_path / "before.img"
    image.write_bytes(written(Memory(tables["gpt"]), places, 128 * MIB).data)
    before.write_bytes(tables["gpt"])
    assert "No problems found" in run("sgdisk", "-v", image)
    run("sfdisk", "--verify", image)
    old, new = (json.loads(run("sfdisk", "-J", each))["partitiontable"] for each in (before, image))
    assert old["id"] == new["id"]
    assert uuid.UUID(new["id"])
    assert [each["uuid"] for each in old["partitions"]] == [
        each["uuid"] for each in new["partitions"]
    ]
    assert [each["start"] * 512 // MIB for each in new["partitions"]] == [1, 9, 99]


def test_an_mbr_keeps_all_but_the_sizes(tables: dict[str, bytes], tmp_path: Path) -> None:
    places = {1: Place(MIB, 8 * MIB), 2: Place(9 * MIB, 20 * MIB), 3: Place(29 * MIB, 90 * MIB)}
    after = written(Memory(tables["dos"]), places, 128 * MIB).data
    image = tmp_path / "larger.img"
    image.write_bytes(after)
    run("sfdisk", "--verify", image)
    assert after[:446] == tables["dos"][:446]
    assert after[446:478] == tables["dos"][446:478]
    (*_, last) = json.loads(run("sfdisk", "-J", image))["partitiontable"]["partitions"]
    assert (last["start"], last["size"]) == (29 * 2048, 90 * 2048)


@pytest.mark.parametrize("at", [512 + 24, 512 + 72, 512 + 84, 1024 + 5])
def test_a_damaged_table_is_not_written_anywhere(tables: dict[str, bytes], at: int) -> None:
    """A header may say that it lies where something else does."""
    disk = Memory(tables["gpt"])
    disk.data[at] ^= 0xFF
    with pytest.raises(GuestUnreadable, match="first copy of the disk's partition table"):
        DiskTable.read(disk)
