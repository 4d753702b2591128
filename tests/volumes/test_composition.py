"""A disk around a volume is one that other programs read, in which the volume is untouched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.disks.shelf import Shelf
from tests.volumes import volumes
from vdbackup.disks.chain import Chain
from vdbackup.qemu import concatenation
from vdbackup.volumes import composition

KIB, MIB = 1 << 10, 1 << 20


def composed(chain: Chain, folder: Path, number: int, sector_size: int = 512) -> Path:
    """The composed disk as QEMU reads it, as a raw file."""
    disk = composition.compose(chain.map, len(chain.layers), number, sector_size)
    files = [layer.path.absolute() for layer in chain.layers]
    made = concatenation.build(folder, disk.flat, [*files, composition.write(disk, folder)])
    raw = folder / "composed.img"
    volumes.run("qemu-img", "convert", "-O", "raw", made.file_name, raw)
    return raw


def test_the_volume_is_the_partition_that_it_was_in_every_format(
    tmp_path: Path, disk_format: str
) -> None:
    number = 7
    shelf = Shelf(tmp_path, 9 * MIB + 64 * KIB, disk_format)
    shelf.add(f"0.{disk_format}", (0, b"first" * 20_000), (5 * MIB, b"middle"))
    shelf.add(f"1.{disk_format}", (5 * MIB + 64 * KIB, b"later"), (9 * MIB, b"end"))
    tip = shelf.add(f"overlay.{disk_format}")
    folder = tmp_path / "session"
    folder.mkdir()
    with Chain.open(tip, disk_format) as chain:
        raw = composed(chain, folder, number)
    table = json.loads(volumes.run("sfdisk", "--json", raw))["partitiontable"]
    assert table["label"] == "gpt"
    (part,) = table["partitions"]
    assert part["node"] == f"{raw}{number}"
    assert part["start"] * 512 == composition.START
    assert part["size"] * 512 == len(shelf.raw)
    with raw.open("rb") as file:
        file.seek(composition.START)
        assert file.read(len(shelf.raw)) == bytes(shelf.raw)
    assert "No errors detected." in volumes.run("sfdisk", "--verify", raw)


@pytest.mark.parametrize(("size", "number"), [(512, 1), (513 * 512, 2), (3 * MIB + 512, 128)])
def test_a_volume_of_any_size_fits(tmp_path: Path, size: int, number: int) -> None:
    image = tmp_path / "volume.img"
    image.write_bytes(b"v" * size)
    folder = tmp_path / "session"
    folder.mkdir()
    with Chain.open(image, "raw") as chain:
        raw = composed(chain, folder, number)
    (part,) = json.loads(volumes.run("sfdisk", "--json", raw))["partitiontable"]["partitions"]
    assert part["size"] * 512 == size
    assert part["node"] == f"{raw}{number}"
    with raw.open("rb") as file:
        file.seek(composition.START)
        assert file.read(size) == b"v" * size


def test_large_sectors_have_a_table_in_their_units(tmp_path: Path) -> None:
    image = tmp_path / "volume.img"
    image.write_bytes(b"v" * 2 * MIB)
    with Chain.open(image, "raw") as chain:
        raw = composed(chain, tmp_path, 1, 4096)
    shown = volumes.run(
        "fdisk", "--sector-size", "4096", "--list", "-o", "Start,Sectors", raw
    ).splitlines()
    assert [int(word) for word in shown[-1].split()] == [MIB // 4096, 2 * MIB // 4096]
