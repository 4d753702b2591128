"""No repository is made where a drive or share should be mounted and is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdbackup.errors import RepositoryError
from vdbackup.repository import mount_points
from vdbackup.repository.mount_points import waiting_mount_point
from vdbackup.repository.repository import Repository


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mount point that fstab names, with nothing mounted on it."""
    drive = tmp_path / "a drive"
    drive.mkdir()
    named = str(drive).replace(" ", "\\040")
    table = tmp_path / "fstab"
    table.write_text(
        "# <device> <mount point> <type> <options> <dump> <pass>\n\n"
        f"UUID=1234 / ext4 defaults 0 1\nUUID=5678 none swap sw 0 0\nproc /proc proc\n"
        f"LABEL=backup\t{named}\text4\tnoauto,user 0 2\nbroken\n"
    )
    monkeypatch.setattr(mount_points, "FSTAB", table)
    return drive


@pytest.mark.parametrize("inside", [".", "backups", "years/2026"])
def test_a_repository_is_not_made_where_nothing_is_mounted(drive: Path, inside: str):
    with pytest.raises(RepositoryError, match="nothing is mounted") as refused:
        Repository.open_or_create(drive / inside)
    assert str(drive) in refused.value.advice
    assert list(drive.iterdir()) == []


def test_a_repository_on_a_mount_point_without_a_mount_is_opened(
    drive: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(mount_points, "FSTAB", drive.parent / "there is none")
        made = Repository.create(drive / "backups")
    assert Repository.open_or_create(drive / "backups").id == made.id


def test_a_link_to_a_mount_point_leads_there(drive: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(drive)
    assert waiting_mount_point(tmp_path / "link" / "backups") == drive


def test_a_repository_is_made_on_a_mount_and_outside_mount_points(drive: Path, tmp_path: Path):
    assert waiting_mount_point(tmp_path / "a drive beside it") is None
    assert waiting_mount_point(Path("/proc/backups")) is None  # fstab names it, and it is mounted
    Repository.create(tmp_path / "backups")
