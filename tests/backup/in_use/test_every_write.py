"""Every write to a volume: its log follows on a point, is looked after, and ends in time.

The log of a loop device is written by a stand-in (logged_volume.py), as the kernel of these tests
knows no device-mapper. It is real in test_every_write_of_a_volume.py.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.mounts import MIB, image
from tests.backup.in_use.devices import use
from tests.backup.in_use.logged_volume import FLUSH, PLACE, Volume, block
from tests.cli.conftest import Vdbackup, vdbackup  # noqa: F401
from tests.disks.write_log import logs
from tests.disks.write_log.logs import Entry
from tests.noise import noise
from tests.sources.loops import loop
from vdbackup.agent import logged
from vdbackup.agent.block_devices import Disk
from vdbackup.backup import delete
from vdbackup.errors import AgentFailed, LogRefused, NotProtected, PointInUse, UsageError
from vdbackup.jobs import CancelToken, Task, silent
from vdbackup.operations import protection, protection_ways, volume_protection
from vdbackup.operations.backup import BackupRequest
from vdbackup.operations.machines import Machines
from vdbackup.operations.volume_protection import Told, VolumeRequest, VolumeResult
from vdbackup.recovery.sessions.writes_watch import Keeper
from vdbackup.repository.kept_logs import Cause, KeptLog, kept_logs
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef

pytestmark = pytest.mark.usefixtures("as_root")

LIMIT = 32 * MIB


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Volume:
    volume = Volume()
    volume.take_the_place(monkeypatch)
    return volume


@pytest.fixture
def device(stack: ExitStack, tmp_path: Path) -> Path:
    """A mounted file system of which a place that it does not use holds what was written last."""
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 32, "ext4")))
    with device.open("r+b") as file:
        file.seek(PLACE * 512)
        file.write(noise(4096, 1))
        file.flush()
        os.fsync(file.fileno())
    use(stack, device, tmp_path / "mount", "-o", "nodiscard")
    return device


class Run:
    """Keeps all writes to a device, until somebody is told what ends it."""

    def __init__(self, repository: Repository, device: Path, machines: Machines) -> None:
        self.repository, self.device, self._machines = repository, device, machines
        self.cancel = CancelToken()
        self.begun: list[KeptLog] = []
        self.points = 0
        self.meanwhile: Callable[[KeptLog], None] = lambda _: None

    def _tell(self, told: Told) -> None:
        self.points += told.made is not None
        if (kept := told.begun) is not None:
            self.begun.append(kept)
            threading.Thread(target=self.meanwhile, args=(kept,)).start()

    def __call__(self, limit: int = LIMIT, lasts: float | None = 60) -> VolumeResult:
        asked = BackupRequest(SourceRef.of_path(self.device), self.repository.path, all_blocks=True)
        request = VolumeRequest(asked, limit, lasts)
        task = Task(silent, self.cancel)
        return volume_protection.run(request, self._machines, task, self._tell)


@pytest.fixture
def run(repository: Repository, device: Path, tmp_path: Path) -> Run:
    return Run(repository, device, Machines(tmp_path / "sessions"))


def read(repository: Repository, reference: str) -> bytes:
    backup_set, point = repository.find_state(reference, None)
    with backup_set.open_chain(point) as disk:
        data = bytearray(disk.size)
        disk.readinto(0, memoryview(data))
    return bytes(data)


def noted(run: Run, writes: int) -> None:
    """Wait until moments of so many writes are there."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        (found,) = protection.moments(run.repository, None, None, None)
        if found.moments and found.moments[-1].write >= writes:
            return
        time.sleep(0.1)
    raise AssertionError(found)


def test_moments_follow_on_the_point_until_it_is_cancelled(run: Run, volume: Volume):
    volume.before = [block(7), FLUSH, block(1), FLUSH]  # what is older was there before, too
    entries = [block(2), FLUSH, block(3, PLACE + 4), FLUSH, block(4), Entry(PLACE, 8, 4), FLUSH]

    def write(kept: KeptLog) -> None:
        volume.log(*entries)
        noted(run, 4)
        with pytest.raises(PointInUse, match="still added"):
            protection.forget(run.repository, kept.folder.name, kept.session, Path("nowhere"))
        point = run.repository.set().points[-1]
        with pytest.raises(PointInUse):
            delete.run(delete.plan(run.repository, kept.folder.name, point.id), Task())
        run.cancel.cancel()

    run.meanwhile = write
    done = run()
    assert (run.points, volume.ended >= 1, volume.state(run.device)) == (2, True, None)
    record = done.kept.protection
    assert (record.cause, record.before, record.source) == (Cause.ASKED, 2, str(run.device))
    number, point = done.point.sequence, read(run.repository, str(done.point.sequence))
    assert read(run.repository, f"{number}@w0") == point
    for write_, count in ((1, 1), (2, 3), (3, 5), (4, 6)):
        expected = logs.replay(entries[:count], point)
        assert read(run.repository, f"{number}@w{write_}") == expected
    assert read(run.repository, f"{number}@2099-01-01") == logs.replay(entries, point)
    (found,) = protection.moments(run.repository, None, None, None)
    assert [each.write for each in found.moments] == [0, 1, 2, 4]
    assert (found.trouble, done.kept.path.stat().st_size < MIB) == ("", True)
    plan = protection.plan_point(run.repository, done.kept.folder.name, f"{done.point.id}@w2")
    made = protection.make_point(plan, Path(run.repository.path, "none"), Task())
    assert read(run.repository, str(made.point.sequence)) == logs.replay(entries[:3], point)
    assert protection.forget(
        run.repository, done.kept.folder.name, done.kept.session, Path("nowhere")
    )


def fills(volume: Volume, kept: KeptLog) -> None:
    volume.log(*(block(each) for each in range(LIMIT // 4700)))


def fails(volume: Volume, kept: KeptLog) -> None:
    volume.goes_on = False


def changes(volume: Volume, kept: KeptLog) -> None:
    volume.end(Path())


def unprotects(volume: Volume, kept: KeptLog) -> None:
    volume_protection.unprotect(kept)


ENDS = {
    Cause.LIMIT: (fills, "It takes 32 MiB, its limit."),
    Cause.STORAGE: (fails, "Its storage failed."),
    Cause.CHANGED: (changes, "Another program has changed what device-mapper makes it of."),
    Cause.ASKED: (unprotects, "That was asked for."),
}


@pytest.mark.parametrize("cause", ENDS)
def test_it_ends_in_time_and_says_why(run: Run, volume: Volume, cause: Cause):
    happens, why = ENDS[cause]

    def meanwhile(kept: KeptLog) -> None:
        volume.log(block(2), FLUSH)
        noted(run, 1)
        happens(volume, kept)

    run.meanwhile = meanwhile
    record = run().kept.protection
    assert (record.cause, record.why, record.ended is not None) == (cause, why, True)
    assert volume.state(run.device) is None
    (found,) = protection.moments(run.repository, None, None, None)
    assert found.moments
    assert (found.trouble == "") == (cause is Cause.ASKED)


def test_storage_that_fails_for_notes_ends_it_and_that_is_said(
    run: Run, volume: Volume, monkeypatch
):
    def fails(keeper: Keeper) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def meanwhile(kept: KeptLog) -> None:
        volume.log(block(2), FLUSH)
        noted(run, 1)
        monkeypatch.setattr(Keeper, "look", fails)

    run.meanwhile = meanwhile
    record = run().kept.protection
    assert (record.cause, record.why) == (Cause.STORAGE, "Its storage failed.")


def test_of_a_log_that_ended_with_its_storage_that_is_noted_when_the_next_begins(
    run: Run, volume: Volume
):
    kept = run(lasts=2).kept
    for machine in ("another computer's", kept.protection.machine):
        replace(
            kept, protection=replace(kept.protection, ended=None, cause="", machine=machine)
        ).save()
        run(lasts=1)
        found = kept_logs(kept.folder)[0].protection
        assert (found.ended is None) == (machine != kept.protection.machine)
    assert (found.cause, found.why) == (Cause.CHANGED, "Nobody looked after it any more.")


def test_whatever_keeps_it_from_being_looked_after_ends_it_too(
    run: Run, volume: Volume, monkeypatch
):
    def gone(_: Path) -> None:
        raise AgentFailed("The service has ended.", "")

    run.meanwhile = lambda _: monkeypatch.setattr(logged, "state", gone)
    with pytest.raises(AgentFailed):
        run()
    (kept,) = kept_logs(run.repository.set().folder)
    assert (kept.protection.cause, kept.protection.why) == (Cause.CHANGED, "The service has ended.")
    assert volume.state(run.device) is None


def test_without_the_freezes_mark_nothing_is_kept_and_nothing_stays(
    run: Run, volume: Volume, monkeypatch
):
    monkeypatch.setattr(volume_protection, "_COMES_WITHIN", 0.5)
    volume.marks = False
    with pytest.raises(NotProtected, match="no mark of its moment"):
        run()
    assert volume.state(run.device) is None
    assert not list(run.repository.path.rglob("writes-*"))


def test_what_cannot_be_logged_is_refused_and_leaves_nothing(run: Run, volume: Volume, monkeypatch):
    def refuse(*_: object) -> None:
        raise LogRefused("Writes to it cannot be logged.", "")

    monkeypatch.setattr(logged, "begin", refuse)
    with pytest.raises(LogRefused):
        run()
    assert not list(run.repository.path.rglob("writes-*"))
    monkeypatch.setattr(volume, "_file", os.dup(0))
    with pytest.raises(NotProtected, match="kept already"):
        run()
    with pytest.raises(UsageError, match="takes 16 MiB at least"):
        run(limit=MIB)


def test_a_restart_of_the_computer_ends_it_and_that_is_said(run: Run, volume: Volume):
    kept = run(lasts=2).kept
    restarted = replace(kept.protection, ended=None, why="", cause="", boot="another")
    replace(kept, protection=restarted).save()
    (found,) = protection.moments(run.repository, None, None, None)
    assert found.trouble.endswith("are kept since this computer was started anew.")
    run(lasts=2)
    first, second = (each.protection for each in kept_logs(kept.folder))
    assert (first.cause, second.cause) == (Cause.RESTART, Cause.ASKED)
    assert (run.points, first.point != second.point) == (3, True)


def test_at_the_terminal_it_is_begun_and_ended_by_the_volumes_name(
    run: Run,
    volume: Volume,
    vdbackup: Vdbackup,  # noqa: F811
):
    folder = run.repository.path
    said = vdbackup("protect", run.device, "-r", folder, "--for", "2s", "--limit", "32M", "--json")
    assert said.status == 0, said.err
    *_, begun, result = map(json.loads, said.out.splitlines())
    assert (begun["event"], result["event"]) == ("protected", "result")
    assert result["why"] == "That was asked for."
    refused = vdbackup("unprotect", run.device, "-r", folder, "--json")
    assert json.loads(refused.err.splitlines()[-1])["code"] == "not-protected"
    (kept,) = kept_logs(run.repository.set().folder)
    going_on = replace(kept.protection, ended=None, why="", cause="")
    for words in (("--session", kept.session), (run.device,)):
        replace(kept, protection=going_on).save()
        said = vdbackup("unprotect", *words, "-r", folder, "--json")
        assert said.json["session"] == kept.session
        assert kept_logs(kept.folder)[0].protection.cause == Cause.ASKED
    assert vdbackup("protect", "-r", folder).status == 2
    assert vdbackup("protect", run.device, "--session", "7f3a", "-r", folder).status == 2


def test_what_the_window_says_of_a_source_is_whether_it_is_such_a_volume(
    run: Run, device: Path, monkeypatch
):
    def about() -> str:
        source = SourceRef.of_path(device)
        return protection_ways.look(source, run.repository.path, None).about_each_write

    assert about().startswith(f"Not every write of {device}")
    monkeypatch.setattr(Disk, "is_mapped", True)
    assert about().startswith(f"Every write to {device} can be kept")
