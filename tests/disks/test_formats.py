"""What holds for disks in each format: whatever is written to one, everybody reads it right.

What is special to a format is in its own file; how disks name each other is in test_links.py.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crash.faults import storage_error
from tests.disks.damage import few_calls, little_memory
from tests.disks.everybody import QEMU_NAMES, assert_everybody_reads
from tests.disks.shelf import MIB, Shelf, Write, change, contents, opened, put, reference
from tests.noise import noise
from tests.oracles import qemu, readers
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.extents import BlockMap, State, total
from vdbackup.disks.formats import FORMATS, create_disk, open_disk, probe
from vdbackup.errors import DiskError

BLOCK = 2 * MIB  # the largest block of any format, and 32 of the smallest
TABLE = 32 * MIB  # what a grain table of a VMDK stands for
ODD = 33 * MIB + 5 * 4096  # no VHD geometry; the last block and the last unit are short
SIZES = [512, UNIT - 512, UNIT, MIB + 512, BLOCK, BLOCK + 512, 3 * BLOCK - 512]
SECTOR_SIZES = [(name, size) for name, each in FORMATS.items() for size in each.sector_sizes]
TOO_LARGE = {
    "vmdk": 2 << 40,
    "vhd": (2040 << 30) + 512,
    "vhdx": (64 << 40) + 512,
    "qcow2": FORMATS["qcow2"].largest + 512,
}
both = pytest.mark.parametrize("is_child", [False, True], ids=["base", "child"])


def layers(folder: Path, size: int, disk_format: str, is_child: bool, *writes: Write) -> Shelf:
    """A disk with these writes in it: a base, or a child of one that is full."""
    shelf = Shelf(folder, size, disk_format)
    if is_child:
        shelf.layer((0, noise(size, 99)))
    shelf.layer(*writes)
    return shelf


def block_map(path: Path, disk_format: str) -> BlockMap:
    with opened(path, disk_format) as disk:
        return disk.block_map()


def place(path: Path, disk_format: str, offset: int) -> int:
    """Where in the file that byte of the disk lies."""
    blocks = block_map(path, disk_format)
    run = blocks.run_at(offset)
    return int(blocks.hosts[run]) + offset - int(blocks.starts[run])


def space(path: Path) -> int:
    """Bytes that the file takes in its file system."""
    return path.stat().st_blocks * 512


# --------------------------------------------------------------------------- reading


@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_of_any_size_is_read_right(tmp_path, disk_format, size):
    shelf = Shelf(tmp_path, size, disk_format)
    shelf.layer((0, noise(size, 1)))
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("size", [512, UNIT, MIB + 512, 3 * BLOCK - 512])
def test_an_empty_disk_of_any_size_is_all_zeros_or_its_parent(tmp_path, disk_format, size):
    shelf = Shelf(tmp_path, size, disk_format)
    shelf.layer()
    assert_everybody_reads(shelf)
    end = (size - 1) // UNIT * UNIT
    shelf.write((end, noise(size - end, 1)))
    shelf.layer()
    assert_everybody_reads(shelf)


def test_every_layer_of_a_chain_is_read_right(tmp_path, disk_format):
    shelf = Shelf(tmp_path, ODD, disk_format)
    end = ODD // UNIT * UNIT
    rest = ODD - end
    shelf.layer((0, noise(5 * MIB, 1)), (TABLE - UNIT, noise(2 * UNIT, 2)), (end, noise(rest, 3)))
    assert_everybody_reads(shelf)
    shelf.layer((MIB, noise(UNIT, 4)), (20 * MIB, noise(3 * MIB, 5)), (0, UNIT), (end, rest))
    assert_everybody_reads(shelf)
    shelf.layer((3 * MIB, 4 * UNIT), (21 * MIB, 2 * MIB), (TABLE, UNIT), (end, noise(rest, 6)))
    assert_everybody_reads(shelf)
    shelf.layer()
    assert_everybody_reads(shelf)


def test_a_map_shows_data_zeros_and_what_the_parent_answers_as_of_the_last_flush(
    tmp_path, disk_format
):
    shelf = Shelf(tmp_path, 3 * BLOCK, disk_format)
    base = shelf.layer((BLOCK, noise(BLOCK, 1)))
    child = shelf.layer((2 * UNIT, noise(UNIT, 1)))

    def states(blocks: BlockMap) -> list[tuple[int, State]]:
        return [(extent.length // UNIT, extent.state) for extent in blocks.extents()]

    assert states(block_map(base, disk_format)) == [
        (32, State.ZERO), (32, State.DATA), (32, State.ZERO),
    ]  # fmt: skip
    with opened(child, disk_format, writable=True) as disk:
        wanted = [(2, State.UNALLOCATED), (1, State.DATA), (93, State.UNALLOCATED)]
        assert states(disk.block_map()) == wanted
        put(disk, (0, noise(3 * BLOCK, 2)))
        assert states(disk.block_map()) == wanted
        disk.flush()
        assert {state for _, state in states(disk.block_map())} == {State.DATA}


def test_what_was_there_is_read_while_something_else_is_written(tmp_path, disk_format):
    shelf = Shelf(tmp_path, 8 * UNIT, disk_format)
    base = shelf.layer((0, noise(4 * UNIT, 1)))
    child = shelf.layer((0, noise(UNIT, 2)))
    with Chain.open(child) as chain:
        change(base, disk_format, (0, noise(UNIT, 2)))
        data = bytearray(shelf.size)
        chain.readinto(0, memoryview(data))
        assert data == shelf.raw


def test_reading_or_opening_for_writes_that_do_not_come_changes_nothing(tmp_path, disk_format):
    shelf = layers(tmp_path, BLOCK, disk_format, True, (UNIT, noise(UNIT, 1)))
    before = shelf.top.read_bytes()
    contents(shelf.top, disk_format)
    change(shelf.top, disk_format)
    assert shelf.top.read_bytes() == before


# --------------------------------------------------------------------------- zeros


def test_zeros_hide_what_the_parent_has_and_take_no_space(tmp_path, disk_format):
    shelf = Shelf(tmp_path, 4 * BLOCK, disk_format)
    shelf.layer((0, noise(4 * BLOCK, 1)))
    empty = space(shelf.layer())
    path = shelf.layer((UNIT, noise(UNIT, 2)), (2 * UNIT, BLOCK), (3 * BLOCK - UNIT, BLOCK))
    assert space(path) < empty + 3 * UNIT
    assert_everybody_reads(shelf)


def test_zeros_in_a_disk_without_parent_take_no_space(tmp_path, disk_format):
    shelf = Shelf(tmp_path, 2 * BLOCK, disk_format)
    path = shelf.layer()
    size = path.stat().st_size
    shelf.write((0, 2 * BLOCK))
    assert path.stat().st_size == size
    assert total(block_map(path, disk_format).data_ranges()) == 0
    assert_everybody_reads(shelf)


@both
@pytest.mark.parametrize("flushed", [True, False])
def test_zeros_over_own_data_are_written_in_place(tmp_path, disk_format, is_child, flushed):
    shelf = layers(tmp_path, 3 * BLOCK, disk_format, is_child)
    writes: list[Write] = [(UNIT, noise(2 * BLOCK, 2)), (2 * UNIT, 2 * BLOCK - 2 * UNIT)]
    with opened(shelf.top, disk_format, writable=True) as disk:
        put(disk, writes[0])
        if flushed:
            disk.flush()
            size = shelf.top.stat().st_size
        put(disk, writes[1])
        disk.flush()
    assert not flushed or shelf.top.stat().st_size == size
    shelf.note(*writes)
    assert_everybody_reads(shelf)


# --------------------------------------------------------------------------- writing


def test_writes_after_opening_go_in_place_or_behind_the_end(tmp_path, disk_format):
    shelf = layers(tmp_path, 4 * BLOCK, disk_format, True, (BLOCK, noise(2 * UNIT, 2)))
    size, where = shelf.top.stat().st_size, place(shelf.top, disk_format, BLOCK)
    shelf.write((BLOCK + UNIT, noise(UNIT, 3)))
    assert shelf.top.stat().st_size == size
    shelf.write((BLOCK + UNIT, noise(UNIT, 4)), (3 * BLOCK, noise(UNIT, 5)), (0, UNIT))
    assert place(shelf.top, disk_format, BLOCK) == where
    assert place(shelf.top, disk_format, 3 * BLOCK) >= size - UNIT  # a footer may have been there
    with opened(shelf.top, disk_format) as disk:
        assert shelf.top.stat().st_size <= size + 2 * (disk.info.block_size + UNIT)
    assert_everybody_reads(shelf)


@both
def test_one_write_may_cover_blocks_that_are_there_and_others(tmp_path, disk_format, is_child):
    some: list[Write] = [(BLOCK, noise(UNIT, 1)), (3 * BLOCK, noise(UNIT, 2))]
    shelf = layers(tmp_path, 5 * BLOCK + 4096, disk_format, is_child, *some)
    shelf.write((UNIT, noise(shelf.size - UNIT, 3)), (BLOCK - UNIT, 3 * UNIT))
    assert_everybody_reads(shelf)


@both
@pytest.mark.each_format
def test_units_are_written_over_again_and_again_before_a_flush(tmp_path, disk_format, is_child):
    """By data and by zeros, in place of either: so does a capture that reads again what changed."""
    size = 3 * BLOCK + 4096
    units, random = size // UNIT, Random(1)
    writes: list[Write] = []
    for seed in range(200):
        first = random.randrange(units)
        length = min(random.randrange(1, 40), units - first) * UNIT
        writes.append((first * UNIT, length if random.random() < 0.4 else noise(length, seed)))
    assert_everybody_reads(layers(tmp_path, size, disk_format, is_child, *writes))


def test_data_lie_at_multiples_of_64_kib_in_the_file_side_by_side(tmp_path, disk_format):
    shelf = layers(tmp_path, 3 * BLOCK, disk_format, True)
    shelf.write((BLOCK + UNIT, noise(8 * UNIT, 1)), (0, noise(UNIT, 2)))
    data = shelf.top.read_bytes()
    for offset, wanted in ((BLOCK + UNIT, noise(8 * UNIT, 1)), (0, noise(UNIT, 2))):
        at = place(shelf.top, disk_format, offset)
        assert at % UNIT == 0
        assert data[at : at + len(wanted)] == wanted


@both
def test_what_was_not_flushed_is_not_there(tmp_path, disk_format, is_child):
    shelf = layers(tmp_path, 3 * BLOCK, disk_format, is_child, (BLOCK, noise(BLOCK, 2)))
    before = list(block_map(shelf.top, disk_format).extents())
    with opened(shelf.top, disk_format, writable=True) as disk:
        put(disk, (0, noise(UNIT, 3)), (2 * BLOCK + UNIT, noise(UNIT, 4)), (UNIT, UNIT))
    assert list(block_map(shelf.top, disk_format).extents()) == before
    assert_everybody_reads(shelf)


@both
def test_what_a_cut_off_write_left_behind_does_no_harm_and_is_no_zeros(
    tmp_path, disk_format, is_child
):
    """What no table names lies at the end; where zeros are wanted it must not show."""
    shelf = layers(tmp_path, 10 * BLOCK, disk_format, is_child, (BLOCK, noise(UNIT, 2)))
    for number, left in enumerate([1, 3 * UNIT + 1234, BLOCK]):
        with shelf.top.open("ab") as file:
            file.write(noise(left, 9))
        at = 3 * BLOCK * number + 2 * BLOCK
        shelf.write((at - UNIT, 4 * UNIT), (at + BLOCK, noise(UNIT, number)))
    assert_everybody_reads(shelf)


@both
def test_several_threads_may_write_at_once(tmp_path, disk_format, is_child):
    shelf = layers(tmp_path, 12 * BLOCK, disk_format, is_child)
    writes: list[Write] = [
        (number * 3 * UNIT, noise(UNIT, number) if number % 3 else 2 * UNIT)
        for number in range(128)
    ]
    with opened(shelf.top, disk_format, writable=True) as disk:
        threads = [threading.Thread(target=put, args=(disk, *writes[n::4])) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        disk.flush()
    shelf.note(*writes)
    assert_everybody_reads(shelf)


RANDOM_UNITS = 47


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, int, int]:
    """A write or zeros of whole units, or what comes between such."""
    kind = draw(st.sampled_from(["write", "write", "zero", "flush", "reopen"]))
    first = draw(st.integers(0, RANDOM_UNITS - 1))
    return kind, first * UNIT, min(draw(st.integers(1, 40)), RANDOM_UNITS - first) * UNIT


@pytest.mark.parametrize("disk_format", FORMATS)
@both
@settings(max_examples=8)
@given(todo=st.lists(steps(), max_size=12))
def test_any_writes_in_any_order_are_read_right(tmp_path_factory, disk_format, is_child, todo):
    folder, size = tmp_path_factory.mktemp("any"), RANDOM_UNITS * UNIT
    shelf = layers(folder, size, disk_format, is_child, (0, noise(9 * UNIT, 1)))
    disk = open_disk(shelf.top, disk_format, writable=True)
    for number, (kind, offset, length) in enumerate(todo):
        if kind in {"write", "zero"}:
            what = (offset, length if kind == "zero" else noise(length, number))
            put(disk, what)
            shelf.note(what)
        else:
            disk.flush()
        if kind == "reopen":
            disk.close()
            disk = open_disk(shelf.top, disk_format, writable=True)
    disk.flush()
    disk.close()
    assert contents(shelf.top, disk_format) == shelf.raw
    readers.assert_library_reads(shelf.top, shelf.raw_file(), disk_format)
    if disk_format in readers.QEMU_READS_CHAINS:
        qemu.assert_sound(shelf.top, disk_format)


def test_a_storage_that_is_full_during_a_flush_leaves_a_disk_that_is_flushed_later(
    tmp_path, disk_format
):
    shelf = layers(tmp_path, 8 * UNIT, disk_format, False, (0, noise(UNIT, 1)))
    failed = 0
    for at in range(12):
        with opened(shelf.top, disk_format, writable=True) as disk:
            put(disk, (UNIT, noise(7 * UNIT, at)))
            with storage_error(at) as trouble, suppress(OSError):
                disk.flush()
            failed += len(trouble.calls) == at + 1
            disk.flush()
        shelf.note((UNIT, noise(7 * UNIT, at)))
        assert contents(shelf.top, disk_format) == shelf.raw
    assert failed
    assert_everybody_reads(shelf)


# --------------------------------------------------------------------------- making, and limits


def test_a_disk_without_a_suffix_is_found_by_its_first_bytes(tmp_path, disk_format):
    shelf = Shelf(tmp_path, MIB, disk_format)
    path = shelf.add("no-suffix", (0, noise(MIB, 1)))
    assert probe(path) == disk_format
    assert qemu.chain(path)[0]["format"] == QEMU_NAMES[disk_format]
    with Chain.open(path) as chain:
        assert chain.layers[0].info.format == disk_format


def test_a_file_that_exists_is_never_written_over(tmp_path, disk_format):
    (tmp_path / "a").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        create_disk(tmp_path / "a", disk_format, MIB)
    assert (tmp_path / "a").read_bytes() == b"precious"


def test_a_new_disk_is_its_owners_alone(tmp_path, disk_format):
    path = Shelf(tmp_path, MIB, disk_format).layer()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_cannot_be_made_is_an_error_and_not_left_open(tmp_path, disk_format):
    with storage_error(0), pytest.raises(OSError, match="No space left"):
        create_disk(tmp_path / "a", disk_format, MIB)


@pytest.mark.parametrize(("disk_format", "sector_size"), SECTOR_SIZES)
def test_the_sectors_size_is_kept(tmp_path, disk_format, sector_size):
    disk = create_disk(tmp_path / "a", disk_format, MIB, None, sector_size)
    disk.flush()
    disk.close()
    with opened(tmp_path / "a", disk_format) as disk:
        assert disk.info.sector_size == sector_size


@pytest.mark.parametrize(
    "disk_format", [name for name, each in FORMATS.items() if 4096 not in each.sector_sizes]
)
def test_sectors_of_4_kib_are_refused_where_the_format_knows_none(tmp_path, disk_format):
    with pytest.raises(DiskError, match="sectors of 4096"):
        create_disk(tmp_path / "a", disk_format, MIB, None, 4096)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_large_is_refused_and_no_file_is_left(tmp_path, disk_format):
    with pytest.raises(DiskError, match=f"too large for {disk_format.upper()}") as refusal:
        create_disk(tmp_path / "a", disk_format, TOO_LARGE[disk_format])
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


@both
@pytest.mark.parametrize(("disk_format", "sector_size"), SECTOR_SIZES)
def test_the_largest_disk_holds_a_unit_at_its_end(tmp_path, disk_format, sector_size, is_child):
    size, path = FORMATS[disk_format].largest, tmp_path / "large"
    base = Shelf(tmp_path, MIB, disk_format).layer()
    parent = reference(base, disk_format) if is_child else None
    with few_calls(50_000):  # its table has up to 2**25 entries
        disk = create_disk(path, disk_format, size, parent, sector_size)
        put(disk, (size - UNIT, noise(UNIT, 1)))
        disk.flush()
        disk.close()
    assert space(path) < 20 * MIB
    with few_calls(50_000):
        with Chain.alone(path, disk_format) as chain:
            data = bytearray(UNIT)
            chain.readinto(size - UNIT, memoryview(data))
            assert data == noise(UNIT, 1)
            held = UNIT if is_child else chain.layers[0].info.block_size
            assert total(chain.map.data_ranges()) == held
        with opened(path, disk_format, writable=True) as disk:
            assert disk.info.virtual_size == size
    if not is_child and (disk_format, sector_size) != ("vhdx", 4096):  # QEMU opens no such disk
        assert qemu.chain(path)[0]["virtual-size"] == size
        last = qemu.io(path, f"read -v {size - 512} 512", disk_format=QEMU_NAMES[disk_format])
        assert noise(UNIT, 1)[-16:].hex(" ") in last


def test_what_opening_costs_follows_the_layers_and_not_their_tebibyte(tmp_path, disk_format):
    parent = None
    count = 10 if disk_format == "vhdx" else 50  # a VHDX of that size takes long to delete
    for number in range(count):
        path = tmp_path / str(number)
        disk = create_disk(path, disk_format, 1 << 40, parent)
        put(disk, (number << 33, b"\5" * UNIT))
        disk.flush()
        disk.close()
        parent = reference(path, disk_format)
    # a byte for each unit would be 16 MiB a layer
    with (
        little_memory(count * MIB),
        few_calls(count * 2000),
        Chain.open(path, disk_format) as chain,
    ):
        assert len(np.unique(chain.map.layers)) == count + 1
