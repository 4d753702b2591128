"""Whoever reads a point says so: what is read stays as it was, and storage may be read-only."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.backup.lab import Lab, sha256
from tests.repository import computers
from tests.sources.loops import unmount
from vdbackup.backup import convert, merge
from vdbackup.errors import PointInUse, RecoveryError, VdbackupError
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.gui.jobs import files
from vdbackup.jobs import Progress, Report, Task, Waiting, silent
from vdbackup.qemu import launch
from vdbackup.recovery import restore, verify
from vdbackup.recovery.boot_test import boot_test
from vdbackup.recovery.other_programs import machine
from vdbackup.recovery.retarget import retarget
from vdbackup.recovery.sessions import vm
from vdbackup.recovery.sessions.saved import saved_sessions
from vdbackup.repository import claims
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk

MESSAGE = "read by a test"
ROOM = 32 << 20  # of the demo disk; the place past half of it is in no file


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Three points of a disk that boots and holds files; who is in the way gets no time to end."""
    monkeypatch.setattr(claims, "GIVE_WAY", 0.0)
    lab = Lab(tmp_path)
    lab.image.unlink()
    demo_disk.create(lab.image, MESSAGE, ROOM)
    for number in range(3):
        lab.poke(ROOM - (number + 1) * 65536, bytes([number + 1]) * 65536)
        lab.backup()
    return lab


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


class Rival:
    """A report that has the second point rolled into the first, which must be refused."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._point = lab.set.points[1]
        self.refused: list[str] = []

    def __call__(self, _progress: Progress) -> None:
        with pytest.raises(PointInUse) as refused:
            self._lab.merge(self._point)
        self.refused.append(refused.value.title)


def restored(lab: Lab, point: RecoveryPoint, target: Path, report: Report = silent) -> None:
    plan = restore.plan(restore.RestoreRequest(lab.repository, "disk", point.id, target))
    restore.run(plan, Task(report))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_is_restored_beside_a_merge_is_what_was_captured(
    lab: Lab, tmp_path: Path, number: int
) -> None:
    point, rival = lab.set.points[number - 1], Rival(lab)
    target = tmp_path / "restored.raw"
    restored(lab, point, target, rival)
    assert rival.refused[0] == (
        f"Point 1 is in use: this program is restoring a point to {target}."
    )
    assert sha256(target) == sha256(lab.moments[point.id])
    lab.merge(lab.set.points[1])
    lab.check_all()


def test_a_window_that_shows_files_keeps_them_as_they_are_until_it_is_closed(lab: Lab) -> None:
    browser = files.Browser(lab.repository.path, "disk", lab.set.points[0].id)
    before = browser.listing("/")
    rival = Rival(lab)
    rival(Progress("", 0, 0))
    assert rival.refused == ["Point 1 is in use: this program is showing the files of point 1."]
    assert browser.listing("/") == before
    browser.close()
    lab.merge(lab.set.points[1])
    lab.check_all()


def test_files_are_extracted_from_a_point_that_nobody_changes_meanwhile(
    lab: Lab, tmp_path: Path
) -> None:
    rival, point = Rival(lab), lab.set.points[0]
    what = (lab.repository.path, "disk", point.id, ["/"], tmp_path / "out", ())
    files.extract(*what, Task(rival))
    assert set(rival.refused) == {"Point 1 is in use: this program is extracting files of point 1."}


# ------------------------------------------------------------------------------------- verify


def test_a_backup_is_made_while_a_verification_reads(lab: Lab) -> None:
    made: list[Any] = []

    def back_up(_progress: Progress) -> None:
        if not made:
            made.append(lab.capture(policy=Policy(keep=1, retarget=False)))

    verdicts = verify.run(verify.plan(lab.repository, "disk"), Task(back_up))
    assert [verdict.ok for verdict in verdicts] == [True, True, True]
    assert "Point 1 stays for now: Point 1 is in use: this program is verifying disk." in (
        made[0].notes
    )
    verified = [point.verified is not None for point in lab.set.points]
    assert verified == [True, True, True, False]
    lab.capture()
    assert [point.sequence for point in lab.set.points] == [5]


def test_a_verdict_is_recorded_when_nobody_else_writes(lab: Lab) -> None:
    waits = threading.Event()
    found: list[verify.Verdict] = []

    def report(progress: Progress) -> None:
        if isinstance(progress, Waiting):
            waits.set()

    def check() -> None:
        found.extend(verify.run(verify.plan(lab.repository, "disk"), Task(report)))

    thread = threading.Thread(target=check)
    with lab.repository.lock("backing up something else"):
        thread.start()
        assert waits.wait(60)  # it has read all, beside whoever writes
        assert all(point.verified is None for point in lab.set.points)
    thread.join()
    assert len(found) == len(lab.set.points)
    assert all(point.verified and point.verified.ok for point in lab.set.points)


def test_a_verdict_is_not_recorded_of_what_a_merge_has_made_since(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = verify._record

    def merge_first(*what: Any) -> None:
        lab.merge(lab.set.points[1])
        record(*what)

    monkeypatch.setattr(verify, "_record", merge_first)
    verify.run(verify.plan(lab.repository, "disk"), Task())
    verified = {point.sequence: point.verified is not None for point in lab.set.points}
    assert verified == {2: False, 3: True}


# ------------------------------------------------------------------------------------- machines


def _start_machine(lab: Lab, sessions: Path) -> None:
    vm.start_from_point(lab.repository, lab.set, lab.set.points[0], sessions_folder=sessions)


def _start_test(lab: Lab, sessions: Path) -> None:
    wish = boot_test.BootTestOptions(sessions)
    point = lab.set.points[0]
    boot_test.run(lab.repository, "disk", point.id, wish, Task())


@pytest.mark.parametrize("start", [_start_machine, _start_test])
def test_no_layer_goes_before_a_machine_that_starts_on_it_has_its_own_locks(
    lab: Lab,
    sessions: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[[Lab, Path], None],
) -> None:
    rival = Rival(lab)

    def begin(*_: Any) -> Any:
        rival(Progress("", 0, 0))
        raise RecoveryError("It was about to start.", "")

    monkeypatch.setattr(launch, "hardware_for", begin)
    with pytest.raises(RecoveryError, match="about to start"):
        start(lab, sessions)
    doing = "running a virtual machine from" if start is _start_machine else "testing whether"
    assert rival.refused[0].startswith(f"Point 1 is in use: this program is {doing}")
    lab.merge(lab.set.points[1])


MERGES_THERE = """
import sys
from pathlib import Path
from vdbackup.backup import merge
from vdbackup.errors import PointInUse
from vdbackup.jobs import Task
from vdbackup.repository import claims
from vdbackup.repository.repository import Repository
claims.GIVE_WAY = 0.0
repository = Repository.open(Path(sys.argv[1]))
plan = merge.plan(repository, "disk", repository.set("disk").points[1].id)
print("reading", flush=True)
try:
    merge.run(plan, Task())
except PointInUse as error:
    print(error.title)
else:
    print("merged")
"""


@pytest.mark.parametrize("kind", ["machine", "kept machine", "test"])
def test_another_computer_merges_nothing_that_a_machine_here_runs_on(
    as_root: None, lab: Lab, sessions: Path, tmp_path: Path, kind: str
) -> None:
    """Neither a machine's hold nor QEMU's locks tell it of the layers below its point."""
    said: list[str] = []

    def merge_there(_: Progress | None = None) -> None:
        with (
            computers.mounted(lab.repository.path, tmp_path / f"there{len(said)}") as there,
            computers.running(MERGES_THERE, there, host="nas") as process,
        ):
            assert process.stdout is not None
            said.append(process.stdout.readline().strip())

    def when_it_boots(progress: Progress) -> None:
        if progress.phase.startswith("Booting") and not said:
            merge_there()

    point = lab.set.points[2]
    if kind == "test":
        wish = boot_test.BootTestOptions(sessions, sign=f"text:{MESSAGE}")
        boot_test.run(lab.repository, "disk", point.id, wish, Task(when_it_boots))
    else:
        ide = {"request": HardwareRequest(Controller.IDE), "sessions_folder": sessions}
        machine = vm.start_from_point(lab.repository, lab.set, point, **ide)
        if kind == "kept machine":
            machine.keep()
            (saved,) = saved_sessions(sessions)
            machine = vm.reopen_session(saved)
        with machine:
            merge_there()
    merge_there()
    doing = "testing whether it boots" if kind == "test" else "running a virtual machine from"
    assert f" is {doing}" in said[0]
    assert said[1] == "merged"


def test_plans_and_machines_for_other_programs_read_what_nobody_changes(
    lab: Lab, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival, point = Rival(lab), lab.set.points[0]

    def looking(*_: Any, **__: Any) -> Any:
        rival(Progress("", 0, 0))
        raise RecoveryError("It has looked.", "")

    monkeypatch.setattr(retarget, "inspect", looking)
    monkeypatch.setattr(machine, "chosen_hardware", looking)
    program = machine.Program.VIRTUALBOX
    with pytest.raises(RecoveryError, match="has looked"):
        retarget.plan(lab.repository, "disk", point.id)
    with pytest.raises(RecoveryError, match="has looked"):
        machine.write_machine(lab.repository, lab.set, point, program, sessions_folder=sessions)
    assert rival.refused == [
        "Point 1 is in use: this program is planning to retarget point 1.",
        "Point 1 is in use: this program is writing a machine for disk #1.",
    ]


def test_who_converts_or_retargets_holds_the_repository_for_writing(lab: Lab) -> None:
    """Nothing is merged beside them, so they need no claim."""
    said: list[str] = []
    point = lab.set.points[1]

    def rival(_progress: Progress) -> None:
        with pytest.raises(VdbackupError) as refused:
            lab.merge(point)
        said.append(refused.value.title)

    convert.run(convert.plan(lab.repository, "disk", "qcow2"), Task(rival))
    assert set(map(type, said)) == {str}
    assert all("is converting disk since" in each for each in said)


# ------------------------------------------------------------------------------------- read-only


@pytest.fixture
def read_only(lab: Lab, tmp_path: Path, as_root: None) -> Iterator[Path]:
    """The repository where nobody can write."""
    with mounted_read_only(lab.repository.path, tmp_path / "read-only") as where:
        yield where


@contextmanager
def mounted_read_only(folder: Path, where: Path) -> Iterator[Path]:
    """A read-only mount of the same folder."""
    where.mkdir()
    subprocess.run(["mount", "--bind", folder, where], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", where], check=True)
        yield where
    finally:
        unmount(where)


def vdbackup(*words: str | Path) -> str:
    command = [sys.executable, "-m", "vdbackup", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_repository_on_read_only_storage_is_listed_verified_and_restored_from(
    lab: Lab, read_only: Path, tmp_path: Path
) -> None:
    before = lab.files
    at = ("-r", read_only)
    points = json.loads(vdbackup("list", *at, "--json"))["sets"][0]["points"]
    assert [point["sequence"] for point in points] == [1, 2, 3]
    assert vdbackup("verify", *at).count(": ok") == 3
    vdbackup("restore", *at, "2", tmp_path / "two.raw")
    assert sha256(tmp_path / "two.raw") == sha256(lab.moments[lab.set.points[1].id])
    names = vdbackup("files", *at, "1")
    assert names
    vdbackup("extract", *at, "1", "/", tmp_path / "out")
    assert any((tmp_path / "out").rglob("*"))
    assert lab.files == before


def test_read_only_storage_with_half_a_merge_on_it_gives_what_is_whole(
    lab: Lab, tmp_path: Path, as_root: None
) -> None:
    lab.merge_half(lab.set.points[1])
    with mounted_read_only(lab.repository.path, tmp_path / "read-only") as where:
        repository = Repository.open(where)
        (error,) = merge.recover(repository, Task()).undone
        assert "could not be finished: The storage is read-only" in error.title
        verdicts = verify.run(verify.plan(repository, "disk"), Task())
        assert [(each.point.sequence, each.ok) for each in verdicts] == [(2, True), (3, True)]
        for point in repository.set("disk").points:
            target = tmp_path / f"{point.sequence}.raw"
            restore.run(
                restore.plan(restore.RestoreRequest(repository, "disk", point.id, target)), Task()
            )
            assert sha256(target) == sha256(lab.moments[point.id])
        (parent,) = repository.set("disk").hidden
        with pytest.raises(PointInUse, match="Point 1 is not to be had"):
            restore.plan(
                restore.RestoreRequest(repository, "disk", parent.id, tmp_path / "half.raw")
            )


def test_a_point_on_read_only_storage_boots(lab: Lab, read_only: Path, sessions: Path) -> None:
    repository = Repository.open(read_only)
    backup_set = repository.set("disk")
    point = backup_set.points[2]
    wish = HardwareRequest(Controller.IDE)
    before = lab.files
    with vm.start_from_point(
        repository, backup_set, point, sessions_folder=sessions, request=wish
    ) as session:
        assert "nobody else sees that this point is in use" in session.unheld
        with pytest.raises(PointInUse, match="running a virtual machine from point 3"):
            lab.merge(lab.set.points[1])
    wanted = boot_test.BootTestOptions(sessions, sign=f"text:{MESSAGE}")
    test = boot_test.run(repository, "disk", point.id, wanted, Task())
    assert test.ok
    assert lab.files == before


def test_who_reads_by_a_read_only_mount_is_seen_by_who_writes_elsewhere(
    lab: Lab, read_only: Path
) -> None:
    repository = Repository.open(read_only)
    point = lab.set.points[0]
    with (
        claims.reading(repository, "disk", [point.id], "reading it there"),
        pytest.raises(PointInUse, match="this program is reading it there"),
    ):
        merge.run(merge.plan(lab.repository, "disk", lab.set.points[1].id), Task())
