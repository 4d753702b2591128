"""Concatenation maps: through them QEMU reads every chain of ours as we do, and at once."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks.damage import few_calls
from tests.disks.shelf import GRAIN, MIB, Shelf, reference
from tests.noise import noise
from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import ZERO, BlockMap
from vdbackup.disks.formats import FORMATS, create_disk
from vdbackup.errors import RecoveryError
from vdbackup.qemu import concatenation
from vdbackup.qemu.concatenation import ConcatenationMap, build

TIB = 1 << 40
FEW = 512 << 10  # bytes that the map of a few runs may store


def mapped(top: Path, disk_format: str, folder: Path) -> ConcatenationMap:
    """The map of the chain, made in `folder`."""
    folder.mkdir()
    with Chain.open(top, disk_format) as chain:
        return build(folder, chain.map, [layer.path for layer in chain.layers])


def assert_qemu_reads(made: ConcatenationMap, raw: Path) -> None:
    """QEMU reads the same bytes, and as many, through the map."""
    command = ["qemu-img", "compare", "-F", "raw", made.file_name, str(raw)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "size mismatch" not in done.stdout


def stored(folder: Path) -> int:
    """Bytes of storage that what was made there takes."""
    return sum(path.lstat().st_blocks * 512 for path in folder.iterdir())


def named(made: ConcatenationMap) -> list[str]:
    """The files in the text, in its order."""
    lines = made.path.read_text().splitlines()
    return [line.split('"')[1] for line in lines if line.startswith("RW ")]


def test_a_compressed_layer_is_refused_because_its_blocks_lie_nowhere(tmp_path: Path) -> None:
    raw, packed = tmp_path / "raw", tmp_path / "packed.qcow2"
    raw.write_bytes(bytes(GRAIN) + b"x" * GRAIN)
    command = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(packed)]
    subprocess.run(command, check=True)
    with pytest.raises(RecoveryError, match="compressed by another program"):
        mapped(packed, "qcow2", tmp_path / "session")


@pytest.mark.parametrize("disk_format", FORMATS)
@pytest.mark.parametrize("tail", [0, 512, GRAIN - 512])
def test_qemu_reads_a_chain_with_holes_and_zeros_through_its_map(tmp_path, disk_format, tail):
    shelf = Shelf(tmp_path, 66 * MIB + tail, disk_format)
    end = 66 * MIB
    last = [(end, noise(tail, 4))] if tail else []
    shelf.add(f"a.{disk_format}", (0, noise(3 * MIB, 1)), (33 * MIB, noise(MIB, 2)), *last)
    shelf.add(f"b.{disk_format}", (MIB, noise(GRAIN, 3)), (end - 2 * GRAIN, noise(2 * GRAIN, 4)))
    shelf.add(f"c.{disk_format}", (2 * MIB, 3 * GRAIN), (33 * MIB, noise(GRAIN, 5)))
    top = shelf.add(f"d.{disk_format}")
    made = mapped(top, disk_format, tmp_path / "session")
    assert_qemu_reads(made, shelf.raw_file())
    assert named(made) == ["map.bin", "layer0", "layer1", "layer2", "layer3"]


@pytest.mark.parametrize(
    "disk_format", [n for n, each in FORMATS.items() if 4096 in each.sector_sizes]
)
def test_qemu_reads_a_chain_of_4096_byte_sectors(tmp_path, disk_format):
    raw = bytearray(9 * MIB + 4096)
    names = [f"{name}.{disk_format}" for name in "ab"]
    for name, at in zip(names, (0, 5 * MIB), strict=True):
        parent = reference(tmp_path / names[0], disk_format) if at else None
        disk = create_disk(tmp_path / name, disk_format, len(raw), parent, 4096)
        for offset, data in ((at, noise(2 * GRAIN, at)), (9 * MIB, noise(4096, at + 1))):
            disk.write(offset, memoryview(data))
            raw[offset : offset + len(data)] = data
        disk.flush()
        disk.close()
    (tmp_path / "wanted.raw").write_bytes(raw)
    made = mapped(tmp_path / names[1], disk_format, tmp_path / "session")
    assert_qemu_reads(made, tmp_path / "wanted.raw")


@pytest.mark.parametrize("disk_format", FORMATS)
def test_a_disk_that_holds_nothing_is_all_zeros(tmp_path, disk_format):
    shelf = Shelf(tmp_path, 3 * MIB, disk_format)
    made = mapped(shelf.add(f"a.{disk_format}"), disk_format, tmp_path / "session")
    assert_qemu_reads(made, shelf.raw_file())


@pytest.mark.parametrize("unit", [512, 4096, 12288, GRAIN, MIB])
def test_qemu_reads_blocks_that_lie_at_multiples_of_any_unit(tmp_path, unit):
    files = [noise(40 * unit + 512, 1), noise(30 * unit, 2)]
    layers = [tmp_path / "x", tmp_path / "y"]
    for path, data in zip(layers, files, strict=True):
        path.write_bytes(data)
    offsets = np.array([3, 5, 17, 90], np.int64) * unit
    lengths = np.array([2, 7, 1, 10], np.int64) * unit
    hosts = np.array([30, 1, 9, 31], np.int64) * unit
    numbers = np.array([0, 1, 0, 0], np.int32)
    size = 99 * unit + 512  # the last run is cut off here
    flat = BlockMap.from_runs(size, offsets, lengths, numbers, hosts, ZERO)
    raw = bytearray(size)
    for offset, length, host, number in zip(offsets, lengths, hosts, numbers, strict=True):
        part = files[number][host : host + min(length, size - offset)]
        raw[offset : offset + len(part)] = part
    (tmp_path / "raw").write_bytes(raw)
    (tmp_path / "session").mkdir()
    assert_qemu_reads(build(tmp_path / "session", flat, layers), tmp_path / "raw")


def entries(folder: Path) -> dict[int, int]:
    """What map.bin says, read from the file entry by entry: cluster of the disk -> place."""
    data = (folder / "map.bin").read_bytes()

    def word(at: int) -> int:
        return int.from_bytes(data[at : at + 8], "big")

    bits, count, first = data[23], int.from_bytes(data[36:40], "big"), word(40)
    per_table = (1 << bits) // 8
    tables = {number: word(first + number * 8) for number in range(count)}
    return {
        number * per_table + slot: place
        for number, table in tables.items()
        for slot in range(per_table if table else 0)
        if (place := word(table + slot * 8))
    }


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 200), st.integers(0, 2)), max_size=8),
    st.integers(1, 400),
)
def test_every_cluster_is_found_where_the_map_of_the_chain_has_it(tmp_path_factory, runs, slab):
    """In clusters of 512 bytes, a table of which stands for 64, and few tables at once."""
    folder = tmp_path_factory.mktemp("map")
    layers = [folder / str(number) for number in range(3)]
    for path in layers:
        path.write_bytes(bytes(512 * 4000))
    gaps, lengths, numbers = (np.array([run[n] for run in runs], np.int64) for n in range(3))
    offsets = np.cumsum(gaps + lengths) - lengths
    hosts = np.arange(len(runs)) * 300 + 1
    size = (int(offsets[-1] + lengths[-1]) if runs else 0) + 7
    flat = BlockMap.from_runs(
        size * 512, offsets * 512, lengths * 512, numbers.astype(np.int32), hosts * 512, ZERO
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concatenation, "_SLAB", slab)
        made = build(folder, flat, layers)
    space = [line.split() for line in made.path.read_text().splitlines() if line.startswith("RW")]
    at, bases = 0, {}
    for _, sectors, _, name, _ in space:
        bases[name.strip('"')] = at
        at += int(sectors) * 512
    cluster = 1 << (folder / "map.bin").read_bytes()[23]
    wanted = {}
    for offset, length, host, number in zip(offsets, lengths, hosts, numbers, strict=True):
        for sector in range(0, int(length), cluster // 512):
            place = bases[f"layer{number}"] + (int(host) + sector) * 512
            wanted[(int(offset) + sector) * 512 // cluster] = place
    assert entries(folder) == wanted


def test_files_that_hold_nothing_are_opened_too_for_their_locks(tmp_path):
    shelf = Shelf(tmp_path, 4 * MIB, "vhdx")
    shelf.add("a.vhdx", (0, noise(GRAIN, 1)))
    for number in range(5):
        shelf.add(f"b{number}.vhdx", (MIB, noise(GRAIN, number)))
    made = mapped(shelf.add("top.vhdx"), "vhdx", tmp_path / "session")
    assert named(made) == ["map.bin", *(f"layer{number}" for number in range(7))]


def test_the_text_has_nothing_that_qemus_parser_stumbles_over(tmp_path):
    """It drops ZERO extents, aborts at RDONLY, and takes an extent twice behind an empty line."""
    shelf = Shelf(tmp_path, 4 * MIB, "vhd")
    shelf.add("a.vhd", (0, noise(GRAIN, 1)))
    shelf.add("b.vhd", (2 * MIB, noise(GRAIN, 2)))
    made = mapped(tmp_path / "b.vhd", "vhd", tmp_path / "session")
    head, _, extents = made.path.read_text().partition("# Extent description\n")
    assert 'createType="twoGbMaxExtentFlat"' in head.splitlines()
    assert all(head.splitlines())
    assert [line.split()[0::2] for line in extents.splitlines()] == [["RW", "FLAT", "0"]] * 3


def test_any_path_is_good_enough(tmp_path):
    odd = tmp_path / 'a, "b" {c}:=ü\\ \n #'
    odd.mkdir()
    shelf = Shelf(odd, MIB, "vmdk")
    shelf.add("x.vmdk", (0, noise(GRAIN, 1)))
    made = mapped(odd / "x.vmdk", "vmdk", odd / 'd,"')
    assert_qemu_reads(made, shelf.raw_file())


@pytest.mark.parametrize(
    ("disk_format", "layers"),
    [("vhd", 100), ("vhdx", 20)],  # so large VHDX files take long to delete
)
def test_many_layers_over_one_tebibyte_are_mapped_with_little_work_and_no_space(
    tmp_path, disk_format, layers
):
    names = [f"{number}.{disk_format}" for number in range(layers)]
    parent = None
    for name in names:
        disk = create_disk(tmp_path / name, disk_format, TIB, parent)
        if parent is None:
            disk.write(TIB - GRAIN, memoryview(noise(GRAIN, 1)))
            disk.write(0, memoryview(noise(GRAIN, 2)))
        disk.flush()
        disk.close()
        parent = reference(tmp_path / name, disk_format)
    with few_calls(layers * 5000):
        made = mapped(tmp_path / names[-1], disk_format, tmp_path / "session")
    assert stored(tmp_path / "session") <= FEW
    assert len(named(made)) == layers + 1


def test_blocks_too_small_for_so_large_a_disk_are_refused_before_anything_is_made(tmp_path):
    one = np.array([512], np.int64)
    flat = BlockMap.from_runs(TIB, one, one, np.zeros(1, np.int32), one, ZERO)
    (tmp_path / "x").write_bytes(bytes(2048))
    with pytest.raises(RecoveryError, match="blocks too small") as refusal:
        build(tmp_path, flat, [tmp_path / "x"])
    assert refusal.value.advice
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    with pytest.raises(RecoveryError, match="cannot be written to"):
        build(tmp_path / "gone", BlockMap.uniform(MIB, ZERO), [tmp_path])


def test_the_name_for_qemus_tools_is_the_disk(tmp_path):
    shelf = Shelf(tmp_path, MIB, "vhd")
    shelf.add("a.vhd", (0, noise(GRAIN, 1)))
    made = mapped(tmp_path / "a.vhd", "vhd", tmp_path / "session")
    command = ["qemu-img", "info", "--output", "json", made.file_name]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (said["format"], said["virtual-size"]) == ("qcow2", MIB)
