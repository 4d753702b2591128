"""The parts of a file set's disk by themselves, against models that are plain."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.disks.disk import FINE_UNIT, UNIT
from vdbackup.errors import SourceNotFound
from vdbackup.sources.file_sets import blank
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.delta import BLOCK, Delta
from vdbackup.sources.file_sets.folder import Folder
from vdbackup.sources.file_sets.inode import Inode, Known
from vdbackup.sources.reference import Scheme, SourceRef

SIZE = 5 * BLOCK + 512
PATHS = st.lists(
    st.binary(min_size=1, max_size=20).map(
        lambda name: "/" + os.fsdecode(name.replace(b"\0", b"0").replace(b"/", b"-"))
    ),
    min_size=1,
    max_size=3,
    unique=True,
)
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: name not in (b".", b".."))


@given(
    PATHS,
    st.lists(st.text(st.characters(exclude_characters="\0"))),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1 << 50),
)
def test_a_choice_is_found_again_in_its_text(paths, exclude, crosses, caches, largest):
    choice = Choice(tuple(paths), tuple(exclude), crosses, caches, largest)
    ref = SourceRef.parse(str(SourceRef(Scheme.FILES, str(choice))))
    assert ref.is_files
    assert Choice.parse(ref.rest) == choice


@pytest.mark.parametrize(
    "text",
    [
        "",
        "--exclude",
        "'/unclosed",
        "--exclude x",
        "/a --exclude-larger x",
        "/a --exclude-larger 0",
    ],
)
def test_a_text_that_chooses_nothing_is_refused(text: str):
    with pytest.raises(SourceNotFound):
        Choice.parse(text)


def test_links_are_followed_and_what_lies_in_another_is_not_chosen_twice(tmp_path: Path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("folder")
    names = ("link", "folder/inner", "folder")
    assert Choice.of([str(tmp_path / name) for name in names]).paths == (f"{tmp_path}/folder",)


@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=2 * BLOCK))))
def test_a_delta_reads_as_what_was_written_over_its_parent(writes: list[tuple[int, bytes]]):
    parent = bytes(range(256)) * (SIZE // 256)
    model = bytearray(parent)
    with Delta(SIZE, _Bytes(parent)) as delta:
        for offset, data in writes:
            data = data[: SIZE - offset]  # noqa: PLW2901
            delta.write(offset, memoryview(data))
            model[offset : offset + len(data)] = data
        view = memoryview(bytearray(SIZE))
        delta.readinto(0, view)
        assert view == model
        written = {
            block
            for offset, length in delta.written().tolist()
            for block in range(offset // BLOCK, -(-(offset + length) // BLOCK))
        }
    differs = {
        at // BLOCK for at in range(0, SIZE, 512) if model[at : at + 512] != parent[at : at + 512]
    }
    assert differs <= written


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def readinto(self, offset: int, view: memoryview) -> None:
        view[:] = self._data[offset : offset + len(view)]


@given(st.lists(st.tuples(st.booleans(), NAMES, st.integers(3, 1 << 31)), max_size=300))
def test_a_folder_holds_what_it_was_told_and_is_found_again_in_its_blocks(steps):
    folder = Folder.new(11, 2)
    model: dict[bytes, int] = {}
    for number, (adds, name, inode) in enumerate(steps):
        if adds or not model:
            folder.set(name, inode, stat.S_IFREG)
            model[name] = inode
        else:
            gone = list(model)[number % len(model)]
            folder.remove(gone)
            del model[gone]
        if number % 50 == 49:
            folder = Folder.read(folder.blocks())
    blocks = folder.blocks()
    assert {len(block) for block in blocks} == {4096}
    found = Folder.read(blocks).entries
    assert {name: entry.inode for name, entry in found.items()} == model


def test_a_name_more_leaves_the_other_blocks_of_a_folder_as_they_are():
    folder = Folder.new(11, 2)
    for number in range(1000):
        folder.set(b"%030d" % number, number + 3, stat.S_IFREG)
    before = folder.blocks()
    folder.remove(b"%030d" % 500)
    folder.set(b"%030d" % 5000, 12, stat.S_IFREG)
    changed = [now != then for now, then in zip(folder.blocks(), before, strict=True)]
    assert sum(changed) <= 2


@pytest.mark.parametrize("block", [b"", b"\xff" * 4096, bytes(4096), b"\1\0\0\0\x08\0\xff\1" * 512])
def test_blocks_that_make_no_sense_are_refused_or_empty(block: bytes):
    with suppress(ValueError):
        assert Folder.read([block]).entries == {}


@given(st.integers(-(1 << 31), (1 << 34) - (1 << 31) - 1), st.integers(0, 999_999_999))
def test_a_time_is_kept_to_the_nanosecond(seconds: int, rest: int):
    moment = seconds * 1_000_000_000 + rest
    inode = Inode()
    inode.begin(stat.S_IFREG)
    inode.size = 5
    status = _status(moment)
    inode.take_of(status, Known.of_file(status), believed=True)
    assert Inode(inode.packed()).known == Known(stat.S_IFREG | 0o640, 5, moment, moment, 1 << 40)


@pytest.mark.parametrize(
    ("seconds", "kept"), [(-1 << 40, -(1 << 31)), (1 << 40, (1 << 34) - (1 << 31) - 1)]
)
def test_a_time_beyond_what_ext4_can_keep_is_the_nearest_that_it_can(seconds: int, kept: int):
    inode = Inode()
    inode.begin(stat.S_IFREG)
    status = _status(seconds * 1_000_000_000)
    inode.take_of(status, Known.of_file(status), believed=True)
    assert inode.known.modified == kept * 1_000_000_000
    assert inode.known == Known.of_file(_status(seconds * 1_000_000_000, size=0))


@given(st.integers(0, 4095), st.integers(0, (1 << 20) - 1))
def test_a_device_is_kept_by_its_number(major: int, minor: int):
    inode = Inode()
    inode.begin(stat.S_IFBLK)
    inode.be_device(os.makedev(major, minor))
    assert Inode(inode.packed()).device == os.makedev(major, minor)


def _status(moment: int, size: int = 5) -> os.stat_result:
    seconds = moment // 1_000_000_000
    return os.stat_result(
        (stat.S_IFREG | 0o640, 1 << 40, 1, 1, 70_000, 80_000, size, seconds, seconds, seconds),
        {"st_atime_ns": moment, "st_mtime_ns": moment, "st_ctime_ns": moment},
    )


@pytest.mark.parametrize(
    ("size", "content", "files", "unit"),
    [
        (16 << 30, 40 << 20, 10_000, FINE_UNIT),
        (256 << 30, 60 << 30, 1_000_001, FINE_UNIT),
        (512 << 30, 60 << 30, 1_000_001, UNIT),  # its tables would be large
        (16 << 30, 1 << 30, 1000, UNIT),
        (16 << 30, 0, 0, UNIT),
    ],
)
def test_small_files_are_kept_in_small_units(size: int, content: int, files: int, unit: int):
    assert blank.unit_for(size, content, files) == unit
