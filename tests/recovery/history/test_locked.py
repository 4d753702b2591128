"""What lies in an encrypted volume is not said not to be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.volumes import luks, volumes
from tests.volumes.volumes import MIB
from vdbackup.backup import capture
from vdbackup.errors import GuestUnreadable
from vdbackup.jobs import Task
from vdbackup.operations import backup
from vdbackup.recovery.history.differences import differences
from vdbackup.recovery.history.find import Pattern, find
from vdbackup.recovery.history.versions import versions
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef

_SAID = "The files of this disk cannot be read: it is encrypted with LUKS."


@pytest.fixture
def locked(tmp_path: Path) -> tuple[Repository, str, str]:
    """A repository, a set and a point of a disk that is encrypted."""
    plain, image = tmp_path / "plain.img", tmp_path / "luks.img"
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "letter").write_text("in it")
    volumes.blank(plain, 16 * MIB)
    volumes.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, plain)
    luks.luks1(plain, image, b"key")
    with backup.planned(backup.BackupRequest(SourceRef.of_path(image), tmp_path / "kept")) as plan:
        point = capture.run(plan, Task()).point
    return Repository.open(tmp_path / "kept"), plan.set_name, point.id


def test_a_search_says_what_it_did_not_look_into(locked: tuple[Repository, str, str]):
    repository, name, _ = locked
    found = find(repository, name, Pattern("letter"), None, Task())
    assert found.found == ()
    assert any(_SAID in each for each in found.warnings)


def test_versions_are_not_said_to_be_none(locked: tuple[Repository, str, str]):
    repository, name, _ = locked
    with pytest.raises(GuestUnreadable, match="encrypted with LUKS"):
        versions(repository, name, "/letter", Task())


def test_two_points_are_not_said_to_have_no_such_folder(locked: tuple[Repository, str, str]):
    repository, name, point = locked
    found = differences(repository, name, (point, point), "/", Task())
    assert found.warnings == (_SAID,)
