"""More than a point now and then, begun, seen and ended in the window: of a real device.

Every write to it is logged by a stand-in for the kernel (tests/backup/in_use/logged_volume.py).
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from PySide6.QtWidgets import QPushButton

from tests.agent.mounts import MIB
from tests.backup.in_use.logged_volume import FLUSH, Volume, block
from tests.gui.user import User
from tests.noise import noise
from vdbackup.agent import client
from vdbackup.errors import Unauthorized
from vdbackup.gui.ending import Leaving
from vdbackup.gui.protect_dialog import ProtectDialog
from vdbackup.gui.source_dialog import facts
from vdbackup.jobs import CancelToken, Task, silent
from vdbackup.operations import volume_protection
from vdbackup.operations.backup import BackupRequest
from vdbackup.operations.machines import Machines
from vdbackup.operations.volume_protection import Told, VolumeRequest
from vdbackup.repository.kept_logs import Cause, kept_logs
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef


def opened(user: User) -> ProtectDialog:
    user.asks_for("protectSource")
    dialog = user.sees(ProtectDialog, "protectDialog")
    user.waits_until(lambda: dialog.said.text != "Looking…")
    return dialog


# ---------------------------------------------------------------------- points every some seconds


def test_they_are_begun_seen_while_they_go_on_and_ended(
    owner: User, mounted_device: Path, repository: Path, tmp_path: Path
) -> None:
    dialog = opened(owner)
    assert f"once the changes of {mounted_device} are tracked" in dialog.said.text
    assert "but of a virtual machine that is started from" in dialog.each_write.text
    assert not dialog.kind.isVisible()
    assert not dialog.limit.isVisible()
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


# ------------------------------------------------------------------------- every write to a volume


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Volume:
    """The device is one, whose writes can be logged."""
    volume = Volume()
    volume.take_the_place(monkeypatch)
    monkeypatch.setattr(volume_protection, "is_volume", lambda source: str(source)[:5] == "/dev/")
    return volume


def protects(user: User) -> None:
    """Begin to keep every write of the chosen source in a GiB at most."""
    dialog = opened(user)
    assert dialog.each_write.text.startswith("Every write to /dev/")
    assert not dialog.every.isVisible()
    dialog.limit.setValue(1)
    user.clicks("nearBegin")
    user.reads("for the next write; each is kept, and the log takes")


def sees_writes(user: User, count: int) -> None:
    """Wait until the timeline has a band of so many writes, to which more are added."""

    def there() -> bool:
        bands = user.window.panel.timeline.facts.bands
        return [(each.log.writes, each.log.goes_on) for each in bands] == [(count, True)]

    user.waits_until(there)


def test_every_write_to_a_volume_is_kept_seen_and_ended(
    owner: User, volume: Volume, repository: Path
) -> None:
    protects(owner)
    owner.sees_points(2)
    sees_writes(owner, 0)
    volume.log(block(2), FLUSH, block(3), FLUSH)
    sees_writes(owner, 2)
    row = owner.reads("the log takes")
    assert "of 1 GiB." in row.sentence
    assert not row._pause.isVisible()  # the kernel does not rest
    assert not owner.window.awake.holds
    entry = owner.window.entry
    assert entry is not None
    assert "of 1 GiB." in facts(entry, owner.window.kept_logs.logs)["Every write"]
    dialog = opened(owner)
    assert dialog.said.text.startswith("Every write since ")
    assert not dialog.hours.isVisible()
    assert not dialog.begin_button.isEnabled()
    owner.clicks("nearEnd")
    owner.waits_until(lambda: row.ended)
    assert row.sentence.startswith("No more writes are kept.")
    assert volume.state(Path()) is None
    (kept,) = kept_logs(Repository.open(repository).set().folder)
    assert kept.protection.cause == Cause.ASKED
    owner.waits_until(lambda: not owner.window.kept_logs.logs[0].goes_on)
    assert "That was asked for." in facts(entry, owner.window.kept_logs.logs)["Every write"]


def test_what_a_command_has_begun_is_seen_and_ended_in_the_window(
    owner: User, volume: Volume, mounted_device: Path, repository: Path, tmp_path: Path
) -> None:
    begun = threading.Event()

    def tell(told: Told) -> None:
        if told.begun is not None:
            begun.set()

    asked = BackupRequest(SourceRef.of_path(mounted_device), repository, all_blocks=True)
    cancel = CancelToken()
    command = threading.Thread(
        target=volume_protection.run,
        args=(VolumeRequest(asked, 32 * MIB), Machines(tmp_path), Task(silent, cancel), tell),
    )
    command.start()
    owner.waits_until(begun.is_set)
    dialog = opened(owner)
    assert dialog.said.text.startswith("Every write since ")
    assert "of 32 MiB." in dialog.said.text
    owner.clicks("nearEnd")
    owner.reads("No more writes are kept.")
    command.join(60)
    assert not command.is_alive()
    dialog = opened(owner)
    assert dialog.ways is not None
    assert dialog.ways.each_write
    dialog.close()


def test_a_log_that_ends_by_itself_is_told_once_and_once_that_it_is_over(
    owner: User, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(owner.window.alerts, "_looked_at", lambda: False)
    monkeypatch.setattr(owner.window.alerts, "_notify", lambda *said: told.append(said[2]))
    protects(owner)
    sees_writes(owner, 0)
    volume.goes_on = False  # the kernel adds no more to it
    row = owner.reads("No more writes are kept.")
    assert "Its storage failed." in row.sentence
    owner.waits_until(lambda: told)
    assert len(told) == 1, told  # and of no log that is just being begun
    said = told[0]
    assert said.startswith("Writes to /dev/")
    assert said.endswith("are no longer kept: Its storage failed.")
    owner.backs_up(3)
    owner.waits_until(lambda: len(told) > 1)
    assert told[1:] == ["This is over."]
