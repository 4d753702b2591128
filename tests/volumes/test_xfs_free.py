"""The free blocks of XFS are those that xfs_db names; in doubt there are none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.noise import noise
from tests.sources.loops import loop, mounted
from tests.volumes.volumes import MIB, run
from vdbackup.volumes.filesystems import xfs_free
from vdbackup.volumes.filesystems.node import Unreadable

pytestmark = pytest.mark.usefixtures("as_root")

VARIANTS = {
    "usual": (),
    "small blocks, many groups": ("-b", "size=1024", "-d", "agcount=5"),
    "owners": ("-m", "rmapbt=1,reflink=1"),
    "plain": ("-m", "reflink=0,finobt=0"),
}
VERSION_4 = (
    "-m", "crc=0,finobt=0,reflink=0,inobtcount=0,bigtime=0,rmapbt=0", "-i", "nrext64=0,sparse=0",
)  # fmt: skip
"""Which later kernels do not mount."""


def empty(folder: Path, *options: str) -> Path:
    image = folder / "xfs.img"
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    run("mkfs.xfs", "-q", *options, image)
    return image


def made(folder: Path, *options: str) -> Path:
    """One with holes of all sizes: every other of 3,000 files is deleted again."""
    image = empty(folder, *options)
    with loop(image) as device, mounted(device, folder / "mount") as mount:
        for number in range(3000):
            (mount / f"{number}").write_bytes(noise(1 + number * 7 % 20_000, number))
        os.sync()
        for number in range(0, 3000, 2):
            (mount / f"{number}").unlink()
    return image


def free(image: Path) -> np.ndarray:
    with image.open("rb") as file:
        return xfs_free.free(file)


def according_to_xfs_db(image: Path) -> list[tuple[int, int]]:
    """Offsets and lengths in bytes."""
    fields = dict(
        line.split(" = ")
        for line in run("xfs_db", "-r", "-c", "sb 0", "-c", "p blocksize agblocks", image).split(
            "\n"
        )
        if line
    )
    block, length = int(fields["blocksize"]), int(fields["agblocks"])
    said = run("xfs_db", "-r", "-c", "freesp -d", image)
    lines = [line.split() for line in said.split("from")[0].splitlines()[1:] if line.strip()]
    return sorted(
        ((int(group) * length + int(first)) * block, int(count) * block)
        for group, first, count in lines
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_free_is_what_xfs_db_says_but_for_its_own_reserve(tmp_path, variant):
    image = made(tmp_path, *VARIANTS[variant])
    wanted = according_to_xfs_db(image)
    found = [tuple(each) for each in free(image).tolist()]
    assert len(found) > 500
    assert set(found) <= set(wanted)
    (shortest,) = {length for _, length in set(wanted) - set(found)} or {0}
    assert shortest in (0, 1024, 4096)  # single blocks for the trees themselves


def test_of_version_4_it_is_as_well(tmp_path):
    image = empty(tmp_path, *VERSION_4)
    long = [each for each in according_to_xfs_db(image) if each[1] > 4096]
    assert [tuple(each) for each in free(image).tolist()] == long


def test_what_is_free_is_missed_by_nobody(tmp_path):
    image = made(tmp_path)
    with loop(image) as device, mounted(device, tmp_path / "mount", "-o", "ro") as mount:
        before = {path.name: path.read_bytes() for path in mount.iterdir()}
    for offset, length in free(image).tolist():
        with image.open("r+b") as file:
            file.seek(offset)
            file.write(b"x" * length)
    run("xfs_repair", "-n", image)
    with loop(image) as device, mounted(device, tmp_path / "mount", "-o", "ro") as mount:
        assert {path.name: path.read_bytes() for path in mount.iterdir()} == before


def test_one_whose_log_was_not_applied_is_kept_whole(tmp_path):
    image = made(tmp_path)
    copy = tmp_path / "copy.img"
    with loop(image) as device, mounted(device, tmp_path / "mount") as mount:
        (mount / "new").write_bytes(bytes(MIB))
        os.sync()
        copy.write_bytes(image.read_bytes())
    with pytest.raises(Unreadable, match="log"):
        free(copy)
    free(image)


@pytest.mark.parametrize("place", [512 + 52, 512 + 300, 512 + 8])
def test_damage_of_a_group_is_noticed(tmp_path, place):
    image = made(tmp_path)
    with image.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(Unreadable, match="damaged"):
        free(image)
