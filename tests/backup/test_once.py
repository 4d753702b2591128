"""What was done once is there again in another place, as if it had been done there."""

from __future__ import annotations

from pathlib import Path

from tests.backup.lab import Lab, fingerprint
from tests.backup.once import once
from tests.noise import noise
from vdbackup.disks.formats import FORMATS
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import PointType

TOLD: list[Path] = []


@once
def two_points(lab: Lab) -> None:
    TOLD.append(lab.folder)
    lab.poke(0, noise(3 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, noise(BLOCK, 2))
    lab.backup()


def begun(folder: Path, disk_format: str, first: bytes = b"") -> Lab:
    folder.mkdir()
    lab = Lab(folder, disk_format=disk_format)
    lab.poke(-512, first)
    return two_points(lab)


def test_it_is_done_once_and_its_copies_go_on_by_themselves(tmp_path: Path, disk_format: str):
    first, second = (begun(tmp_path / name, disk_format) for name in ("first", "second"))
    assert TOLD.count(second.folder) == 0
    before = first.files
    second.check_all()
    second.poke(5 * BLOCK, noise(BLOCK, 3))
    third = second.backup()
    assert (third.type, third.parent) == (PointType.INCREMENTAL, second.set.points[1].id)
    assert [each.id for each in second.set.points][:2] == [each.id for each in first.set.points]
    second.merge(second.set.points[1])
    second.check_all()
    assert first.files == before


def test_no_file_of_a_copy_names_the_first_place(tmp_path: Path):
    first, second = (begun(tmp_path / name, "vmdk") for name in ("first", "second"))
    assert fingerprint(first.folder).keys() == fingerprint(second.folder).keys()
    for path in second.repository.path.rglob("*.*"):
        assert path.is_dir() or str(first.folder).encode() not in path.read_bytes()


def test_another_format_or_image_is_another_beginning(tmp_path: Path):
    labs = [begun(tmp_path / name, name) for name in FORMATS]
    labs.append(begun(tmp_path / "other", "vmdk", b"other"))
    for lab in labs:
        lab.check_without_processes()
