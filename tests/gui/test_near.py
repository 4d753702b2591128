"""Points every so many seconds, begun, seen and ended in the window: of a real device."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtWidgets import QPushButton

from tests.agent.mounts import MIB
from tests.gui.user import User
from tests.noise import noise
from vdbackup.agent import client
from vdbackup.errors import Unauthorized
from vdbackup.gui.ending import Leaving
from vdbackup.gui.near_dialog import NearDialog
from vdbackup.repository.repository import Repository


def opened(user: User) -> NearDialog:
    user.asks_for("protectSource")
    dialog = user.sees(NearDialog, "nearDialog")
    user.waits_until(lambda: dialog.said.text != "Looking…")
    return dialog


def test_they_are_begun_seen_while_they_go_on_and_ended(
    owner: User, mounted_device: Path, repository: Path, tmp_path: Path
) -> None:
    dialog = opened(owner)
    assert f"once the changes of {mounted_device} are tracked" in dialog.said.text
    assert "but of a virtual machine that is started from" in dialog.each_write.text
    assert not dialog.end_button.isEnabled()
    dialog.every.setValue(1)
    owner.clicks("nearBegin")
    row = owner.reads("for the next change; point #2")
    assert not owner.window.awake.holds
    (tmp_path / "mount/file").write_bytes(noise(MIB, 1))
    owner.sees_points(3)
    owner.waits_until(lambda: "point #3" in row.sentence)
    assert "a point every 1 s" in owner.window.panel.moments.state.text()
    owner.backs_up(4)  # others are not kept waiting
    assert not row.ended
    dialog = opened(owner)
    assert dialog.said.text == "Points are being made: see the jobs."
    assert not dialog.begin_button.isEnabled()
    owner.clicks("nearEnd")
    owner.waits_until(lambda: row.ended)
    assert "points were made" in row.sentence
    near = Repository.open(repository).set(None).settings.near
    assert near is not None
    assert near.why == "That was asked for."
    owner.asks_for("aboutSource")
    owner.clicks("closeButton")


def test_who_quits_when_all_is_done_ends_them(owner: User) -> None:
    dialog = opened(owner)
    dialog.every.setValue(1)
    owner.clicks("nearBegin")
    row = owner.reads("for the next change")
    owner.window.close()
    question = owner.window.ending._question
    assert question is not None
    assert "which ends: its points stay" in question.text
    owner.clicks("quitWhenDone")
    owner.waits_until(lambda: row.ended)
    assert owner.window.ending.leaving is Leaving.WHEN_DONE


def test_an_image_can_have_none_and_that_is_said(with_source: User) -> None:
    dialog = opened(with_source)
    assert dialog.said.text.startswith("No point every some seconds: only the changes of disks")
    assert not dialog.begin_button.isEnabled()
    assert not dialog.every.isEnabled()
    dialog.close()


def test_who_may_not_look_at_the_tracker_reads_why(
    owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise Unauthorized("You may not do that.", "Ask root.")

    monkeypatch.setattr(client, "tracked", refused)
    dialog = opened(owner)
    assert "You may not do that." in dialog.said.text
    assert not owner.sees(QPushButton, "nearBegin").isEnabled()
    dialog.close()
