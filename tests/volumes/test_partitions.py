"""Partition tables as Linux understands them; sfdisk is asked what it sees."""

from __future__ import annotations

import json
import operator
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.volumes import volumes
from tests.volumes.volumes import MIB, browsing, overwritten
from vdbackup.errors import RecoveryError
from vdbackup.volumes.partitions import Partition, partitions

SIZE = 64 * MIB
LOGICAL = """label: dos
1: start=2048, size=8192, type=83
3: start=12288, size=4096, type=c
2: start=20480, size=81920, type=5
5: start=22528, size=2048, type=83
6: start=28672, size=18432, type=7
7: start=53248, size=40960, type=82
"""
GPT = """label: gpt
1: start=2048, size=8192
7: start=20480, size=1
3: start=32768, size=4096
128: start=40960
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    disk = tmp_path / "disk.img"
    volumes.blank(disk, SIZE)
    return disk


def ours(disk: Path, sector_size: int = 512) -> list[Partition]:
    with disk.open("rb") as file:
        return partitions(file, disk.stat().st_size, sector_size)


def theirs(disk: Path) -> list[Partition]:
    """What sfdisk sees, without the extended partition, which is only a container."""
    table = json.loads(volumes.run("sfdisk", "--json", disk))["partitiontable"]
    sector = table.get("sectorsize", 512)
    return sorted(
        (
            Partition(
                int(part["node"].removeprefix(str(disk))),
                part["start"] * sector,
                part["size"] * sector,
            )
            for part in table["partitions"]
            if part["type"] != "5"
        ),
        key=lambda part: part.number,
    )


def write(disk: Path, offset: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("script", [LOGICAL, GPT], ids=["logical", "gpt"])
def test_partitions_are_those_that_linux_sees(script: str, disk: Path):
    volumes.partition(disk, script)
    found = ours(disk)
    assert len(found) >= 4
    assert found == theirs(disk)


def test_a_damaged_gpt_is_read_from_its_copy(disk: Path):
    volumes.partition(disk, GPT)
    expected = ours(disk)
    write(disk, 512 + 60, b"\xff")
    assert ours(disk) == expected
    write(disk, 512, bytes(40 * 512))
    assert ours(disk) == expected
    write(disk, SIZE - 512, b"?")
    with pytest.raises(RecoveryError, match="partition table"):
        ours(disk)
    with browsing(disk) as browser, pytest.raises(RecoveryError, match="partition table"):
        browser.listing()


def test_a_damaged_entry_of_a_gpt_is_noticed(disk: Path):
    volumes.partition(disk, GPT)
    expected = ours(disk)
    write(disk, 1024 + 32, b"\xee")
    assert ours(disk) == expected


def test_logical_partitions_that_lead_around_in_circles_come_to_an_end(disk: Path):
    volumes.partition(disk, LOGICAL)
    extended, entry = 20480, struct.Struct("<B3xB3xII")
    with disk.open("rb") as file:
        file.seek(extended * 512 + 446 + entry.size)
        _, kind, second, length = entry.unpack(file.read(entry.size))
    assert kind == 5
    itself = entry.pack(0, 5, second, length)
    write(disk, (extended + second) * 512 + 446 + entry.size, itself)
    assert [part.number for part in ours(disk)] == [1, 3, 5, 6]


@pytest.mark.parametrize("system", ["fat16", "ntfs", "ext4"])
def test_a_volume_without_partitions_is_not_taken_for_a_table(system: str, tmp_path: Path):
    tree, image = tmp_path / "tree", tmp_path / "image"
    tree.mkdir()
    (tree / "file").write_bytes(b"f")
    volumes.MAKERS[system](tree, image)
    write(image, 510, b"\x55\xaa")
    assert ours(image) == []
    with browsing(image) as browser:
        assert "file" in [entry.name for entry in browser.listing()]


def test_boot_code_is_not_taken_for_a_table(disk: Path):
    write(disk, 446, bytes(range(1, 65)) + b"\x55\xaa")
    assert ours(disk) == []


def test_an_empty_disk_has_a_volume_without_files(disk: Path):
    with browsing(disk) as browser:
        (volume,) = browser.volumes()
        assert (volume.number, volume.size) == (0, SIZE)
        assert volume.problem == "No file system that vdbackup knows is on it."
        with pytest.raises(RecoveryError, match="The files of this disk cannot be read: no file"):
            browser.listing()


@pytest.fixture(scope="module", params=[LOGICAL, GPT], ids=["logical", "gpt"])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk that is changed only for a while."""
    disk = tmp_path_factory.mktemp("table") / "disk.img"
    volumes.blank(disk, SIZE)
    volumes.partition(disk, request.param)
    return disk


@given(
    patches=st.lists(
        st.tuples(
            st.integers(0, 1600)
            | st.builds(operator.add, st.just(20480 * 512 + 446), st.integers(0, 65)),
            st.binary(min_size=1, max_size=16),
        )
    )
)
def test_no_damage_to_a_table_leads_to_more_than_a_sentence(
    patches: list[tuple[int, bytes]], table: Path
):
    with overwritten(table, patches), browsing(table) as browser, suppress(RecoveryError):
        shown = [entry.name for entry in browser.listing()]
        assert shown == [volume.name for volume in browser.volumes()]
