"""What root makes in somebody's repository is theirs: they must not be locked out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.sources.ordinary_user import NOBODY, as_an_ordinary_user, open_folder
from vdbackup.backup import repair
from vdbackup.backup.quarantine import QUARANTINE
from vdbackup.durable import give_to_owner_of_folder
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def lab(disk_format: str) -> Iterator[Lab]:
    """A repository that belongs to an ordinary user."""
    with open_folder() as folder:
        lab = Lab(folder, disk_format=disk_format)
        for path in (lab.repository.path, *lab.repository.path.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        yield lab


def not_theirs(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.lstat().st_uid != NOBODY]


def test_whatever_root_makes_in_a_repository_belongs_to_its_owner(lab: Lab):
    lab.poke(0, noise(3 * BLOCK, 1))
    lab.backup()
    lab.poke(0, noise(BLOCK, 2))
    second = lab.backup()
    assert not_theirs(lab.repository.path) == []
    lab.merge(second)
    lab.backup()
    (lab.set_folder / "set.json").write_text("{")
    next(lab.set_folder.glob("*-overlay.*")).unlink()
    repair.run(lab.repository.path, Task())
    assert (lab.set_folder / QUARANTINE).is_dir()
    assert not_theirs(lab.repository.path) == []
    with as_an_ordinary_user():
        lab.backup()
        for point in lab.set.points:
            lab.check_ours(point)


def test_a_file_with_another_name_and_what_a_link_means_are_given_to_nobody():
    with open_folder() as folder:
        os.chown(folder, NOBODY, NOBODY)
        (folder / "precious").write_text("root's")
        os.link(folder / "precious", folder / "hard")
        (folder / "soft").symlink_to("precious")
        for name in ("hard", "soft"):
            give_to_owner_of_folder(folder / name)
        assert (folder / "precious").stat().st_uid == 0


def test_a_file_of_somebody_else_is_given_to_nobody():
    """Whoever owns a folder can move other people's files in it, but not take them."""
    with open_folder() as folder:
        os.chown(folder, NOBODY, NOBODY)
        other = folder / "other"
        other.write_text("another user's")
        os.chown(other, NOBODY - 1, NOBODY - 1)
        give_to_owner_of_folder(other)
        assert other.stat().st_uid == NOBODY - 1
