"""What is arranged for root is said where others could change it; a drive is found by its mount."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vdbackup.errors import UsageError
from vdbackup.operations.schedules import arrange
from vdbackup.operations.schedules.store import Schedule, Store


def test_what_others_may_change_is_said_where_root_is_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.touch()
    program.chmod(0o777)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    store = Store(tmp_path / "config", tmp_path / "data")
    plan = arrange.planned(store, Schedule(tmp_path, "laptop", "daily"))
    assert plan.warning.startswith("Others than root may change")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert arrange.planned(store, Schedule(tmp_path, "laptop", "daily")).warning == ""


def test_the_drive_is_that_which_is_mounted_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = {"/", "/media/me/My Disk"}
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) in mounts)
    assert arrange.mount_point_of(Path("/media/me/My Disk/a/b")) == "/media/me/My Disk"
    with pytest.raises(UsageError, match="no drive that can be plugged in"):
        arrange.mount_point_of(Path("/home/me/backups"))
