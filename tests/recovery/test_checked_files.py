"""Files are read out of a point's disk as they were captured, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.recovery.mount.points import SET, back_up, shown
from tests.volumes import volumes
from vdbackup.errors import Damaged, NothingExtracted
from vdbackup.jobs import Task
from vdbackup.recovery.browse import FileBrowser
from vdbackup.repository import checked
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository

MIB = 1 << 20
LARGE = noise(5 * BLOCK, 7)
Point = tuple[Repository, RecoveryPoint]


def _damage(layer: Path, held: bytes) -> None:
    """Change a byte of what a layer holds."""
    stored = bytearray(layer.read_bytes())
    stored[stored.index(held)] ^= 1
    layer.chmod(0o600)
    layer.write_bytes(stored)


@pytest.fixture
def point(tmp_path: Path) -> Point:
    """Of an ext4 with a large file and a small one, of which the large one is damaged."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(LARGE)
    (tree / "small").write_bytes(b"whole")
    image = tmp_path / "disk.img"
    volumes.ext("ext4", size=16 * MIB)(tree, image)
    repository, made = back_up(image, tmp_path / "backups")
    _damage(repository.set(SET).folder / made.disk, LARGE[BLOCK * 2 : BLOCK * 2 + 100])
    return repository, made


def extract(point: Point, path: str, to: Path) -> tuple[str, ...]:
    repository, made = point
    with checked.open_point(repository, SET, made.id, "extracting") as disk:
        return FileBrowser(disk).extract([path], to, Task())


def test_a_file_that_is_not_as_it_was_captured_is_left_out_by_name(point: Point, tmp_path: Path):
    said = extract(point, "/", tmp_path / "out")
    assert [each[:36] for each in said] == ["/large is left out: 0001-full.qcow2 "]
    assert sorted(set(os.listdir(tmp_path / "out")) - {"lost+found"}) == ["small"]
    assert (tmp_path / "out" / "small").read_bytes() == b"whole"
    with pytest.raises(NothingExtracted, match="/large is left out"):
        extract(point, "/large", tmp_path / "alone")


@pytest.mark.usefixtures("as_root")
def test_a_folder_shows_nothing_of_it_that_was_not_captured(point: Point, tmp_path: Path):
    folder = tmp_path / "ours"
    with shown(*point, folder):
        with (folder / "large").open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), 100, 0) == LARGE[:100]
            with pytest.raises(OSError, match="Input/output error"):
                os.pread(file.fileno(), 100, 2 * BLOCK)
        assert (folder / "small").read_bytes() == b"whole"


def test_without_digests_it_is_read_all_the_same(point: Point, tmp_path: Path):
    repository, made = point
    (repository.set(SET).folder / made.digests).write_bytes(b"no digests")
    assert extract(point, "/large", tmp_path / "out") == ()
    assert (tmp_path / "out" / "large").stat().st_size == len(LARGE)


def test_wherever_it_is_read_it_is_what_the_chain_holds(tmp_path: Path):
    lab = Lab(tmp_path, 3 * MIB + 512)
    lab.poke(BLOCK - 5, noise(2 * BLOCK, 1))
    lab.backup()
    lab.poke(3 * MIB, noise(512, 2))
    point = lab.backup()
    wanted = lab.image.read_bytes()
    random = np.random.default_rng(3)
    with checked.open_point(lab.repository, lab.set.name, point.id, "reading") as disk:
        for _ in range(200):
            start, end = sorted(random.integers(0, disk.size, 2, endpoint=True).tolist())
            view = memoryview(bytearray(end - start))
            disk.readinto(start, view)
            assert bytes(view) == wanted[start:end]
    _damage(lab.layer(point), noise(512, 2))
    with checked.open_point(lab.repository, lab.set.name, point.id, "reading") as disk:
        disk.readinto(0, memoryview(bytearray(3 * MIB)))
        with pytest.raises(Damaged, match="incremental"):
            disk.readinto(disk.size - 1, memoryview(bytearray(1)))
