"""What holds for damaged and lying files in each format.

They are read, or refused by a sentence that says what to do; there is no other end, and no hang.
What lies are special to a format is in its own file.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks.damage import Sound, no_more_memory, outcome
from tests.disks.shelf import opened, put, reference
from tests.disks.specimens import SPECIMENS
from tests.noise import noise
from tests.oracles import qemu
from vdbackup.disks.disk import UNIT
from vdbackup.disks.formats import FORMATS, open_disk, probe
from vdbackup.errors import DiskError, DiskFormatError

MARKS = {name: each.beginnings[0] for name, each in SPECIMENS.items()}


@pytest.fixture(scope="module", params=FORMATS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return Sound(SPECIMENS[request.param], tmp_path_factory.mktemp("damage"))


def drawn(sound: Sound, data: st.DataObject) -> Path:
    damages = data.draw(st.lists(sound.specimen.damages, min_size=1, max_size=4))
    return sound.damaged(*damages, sealed=data.draw(st.booleans()))


@given(data=st.data())
def test_a_damaged_disk_is_read_or_refused_but_nothing_else(sound, data):
    path = drawn(sound, data)
    with no_more_memory():
        outcome(lambda: sound.seen(path))


@given(data=st.data())
def test_writing_to_a_damaged_disk_changes_nothing_but_what_is_written(sound, data):
    path = drawn(sound, data)
    try:
        wanted = sound.seen(path)
    except DiskError:
        return  # another test's claim
    with no_more_memory():
        refused = outcome(lambda: write_first_unit(path, sound.format))
    if not refused:
        wanted = {at: over(found, at, noise(UNIT, 7)) for at, found in wanted.items()}
    assert sound.seen(path) == wanted
    with no_more_memory():
        outcome(lambda: link_again(path, sound))
    assert sound.seen(path) == wanted
    if not refused and sound.format == "qcow2":
        qemu.assert_sound(path, "qcow2")


def write_first_unit(path: Path, disk_format: str) -> None:
    with opened(path, disk_format, writable=True) as disk:
        put(disk, (0, noise(UNIT, 7)[: disk.info.virtual_size]))
        disk.flush()


def link_again(path: Path, sound: Sound) -> None:
    with opened(path, sound.format, writable=True) as disk:
        if disk.info.parent:
            disk.relink(reference(sound.base, sound.format))
        if disk.info.disk_id and disk.info.content_id:
            disk.adopt(disk.info.disk_id, disk.info.content_id)


def over(found: bytes, offset: int, written: bytes) -> bytes:
    """What is found at `offset`, with that written over the disk's start."""
    part = written[offset : offset + len(found)]
    return part + found[len(part) :]


@given(data=st.data())
def test_a_disk_that_was_cut_off_is_refused_by_its_name(sound, data):
    needed = len(sound.data) - sound.specimen.unread
    structures = st.integers(0, sound.specimen.structures)
    path = sound.cut(data.draw(structures | st.integers(0, needed - 1)))
    with pytest.raises(DiskFormatError) as refusal:
        sound.seen(path)
    assert refusal.value.path == path
    assert path.name in refusal.value.title


def test_a_disk_cut_off_where_the_disk_ends_is_read(sound):
    wanted = sound.seen(sound.damaged())
    needed = len(sound.data) - sound.specimen.unread
    assert sound.seen(sound.cut(needed)) == wanted
    with pytest.raises(DiskFormatError):
        sound.seen(sound.cut(needed - 1))


@pytest.mark.parametrize("writable", [False, True])
def test_a_file_that_cannot_be_opened_is_not_left_open(sound, writable):
    before = len(os.listdir("/proc/self/fd"))
    for edge in sound.specimen.edges:
        path = sound.cut(edge)
        with pytest.raises(DiskError), opened(path, sound.format, writable) as disk:
            disk.block_map()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("writable", [False, True])
def test_a_few_bytes_that_begin_like_a_disk_are_refused_as_one(sound, tmp_path, writable):
    path = tmp_path / "short"
    for start in (b"", *sound.specimen.beginnings):
        for data in (start[:-1], start, start + bytes(504), start + bytes(9000)):
            path.write_bytes(data)
            with pytest.raises(DiskFormatError):
                open_disk(path, sound.format, writable)


@given(
    st.sampled_from(["any", "any.vhd"]),
    st.sampled_from([b"", *MARKS.values()]),
    st.binary(max_size=600),
)
def test_any_first_bytes_are_some_format(folder, name, mark, rest):
    (folder / name).write_bytes(mark + rest)
    found = probe(folder / name)
    assert MARKS.get(found) == mark if mark else found in {"raw", *FORMATS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")
