"""In the window one sees how a disk is tracked, and begins or ends it: with a real tracker."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtWidgets import QPushButton

from tests.agent.mounts import MIB
from tests.gui.user import User
from tests.noise import noise
from vdbackup.agent import client
from vdbackup.errors import Unauthorized
from vdbackup.gui.tracking_dialog import TrackingDialog
from vdbackup.repository.model import ChangesFrom
from vdbackup.repository.repository import Repository


def said(user: User) -> TrackingDialog:
    user.asks_for("trackSource")
    dialog = user.sees(TrackingDialog, "trackingDialog")
    user.waits_until(lambda: dialog.said.text != "Looking…")
    return dialog


def test_tracking_is_begun_and_the_next_backups_read_only_what_has_changed(
    owner: User, mounted_device: Path, repository: Path, tmp_path: Path
) -> None:
    dialog = said(owner)
    assert dialog.said.text.startswith(f"Changes of {mounted_device} are not tracked")
    assert not dialog.end_button.isEnabled()
    owner.clicks("trackButton")
    owner.waits_until(dialog.end_button.isEnabled)
    assert "The next backup reads everything; those after it what has changed." in dialog.said.text
    dialog.close()
    owner.backs_up(2)
    (tmp_path / "mount/file").write_bytes(noise(MIB, 1))
    owner.backs_up(3)
    (backup_set,) = Repository.open(repository).survey(Repository.open(repository).names())[0]
    reading = backup_set.points[-1].reading
    assert reading is not None
    assert reading.changes_from is ChangesFrom.TRACKER
    owner.waits_until(lambda: "what has changed was known" in owner.window.details.fact("read"))
    dialog = said(owner)
    assert "The next backup reads what has changed by now:" in dialog.said.text
    owner.clicks("untrackButton")
    owner.waits_until(lambda: "not tracked" in dialog.said.text)
    assert dialog.findChild(QPushButton, "trackButton").isEnabled()


def test_who_may_not_is_told_so_there(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise Unauthorized("You may not use this disk.", "Ask for it.")

    monkeypatch.setattr(client, "tracked", refused)
    dialog = said(owner)
    assert dialog.said.text == "You may not use this disk. Ask for it."


def test_of_an_image_there_is_nothing_to_be_tracked(with_source: User) -> None:
    assert not with_source.window.actions_["trackSource"].isVisible()
