"""Which folder is a good place for a source's backups."""

from __future__ import annotations

from pathlib import Path

from vdbackup.operations import placement
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk


def test_a_folder_on_the_sources_own_disk_is_warned_of(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    demo_disk.create(image, "hello")
    said = placement.judge(image, tmp_path / "not" / "there" / "yet").warnings
    assert "source's own disk" in said[0]


def test_a_folder_on_the_system_disk_is_warned_of() -> None:
    assert "system disk" in placement.judge(None, Path("/backups-that-are-not-there")).warnings[0]


def test_a_folder_with_backups_is_recognised(tmp_path: Path) -> None:
    Repository.create(tmp_path / "backups")
    assert placement.judge(None, tmp_path / "backups").is_repository
    assert not placement.judge(None, tmp_path).is_repository
