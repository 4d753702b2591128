"""A backup as a person asks for it: the point, made ready to boot, and what the policy wants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from vdbackup.errors import BackupError, Remedy, RepositoryError
from vdbackup.jobs import CancelToken, Task
from vdbackup.operations import backup
from vdbackup.operations.backup import BackupRequest, BackupResult
from vdbackup.operations.machines import Machines
from vdbackup.operations.policy import Change
from vdbackup.recovery.retarget import policy as retargeting
from vdbackup.repository.policy import BootTests, Policy
from vdbackup.sources import demo_disk
from vdbackup.sources.reference import SourceRef


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A small disk that boots."""
    image = tmp_path / "laptop.img"
    demo_disk.create(image, "the first state")
    return image


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path / "sessions")


@pytest.fixture
def asked(disk: Path, tmp_path: Path) -> BackupRequest:
    return BackupRequest(SourceRef.of_path(disk), tmp_path / "backups")


def made(request: BackupRequest, machines: Machines) -> BackupResult:
    return backup.back_up(request, machines, Task())


def test_a_new_point_is_made_ready_to_boot(asked: BackupRequest, machines: Machines) -> None:
    result = made(asked, machines)
    assert (result.set_name, result.point.sequence, result.warnings) == ("laptop", 1, ())
    assert result.trouble == ()
    folder = result.repository.set("laptop").folder
    report = json.loads((folder / result.point.report).read_text())
    assert report["hardware"]["controller"]
    assert not result.to_be_tested


def test_a_policy_without_retargeting_leaves_the_overlay_alone(
    asked: BackupRequest, machines: Machines
) -> None:
    request = BackupRequest(asked.source, asked.repository, policy=Change(retarget=False))
    result = made(request, machines)
    assert not (result.repository.set("laptop").folder / result.point.report).exists()


def test_the_source_is_closed_before_the_point_is_made_ready(
    asked: BackupRequest, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_meanwhile = []

    def look(*_: object) -> tuple[str, ...]:
        names = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        open_meanwhile.extend(name for name in names if name == asked.source.path)
        return ()

    monkeypatch.setattr(retargeting, "for_new_point", look)
    made(asked, machines)
    assert open_meanwhile == []


def test_a_set_whose_policy_says_so_has_its_new_points_boot_tested(
    asked: BackupRequest, machines: Machines
) -> None:
    request = BackupRequest(asked.source, asked.repository, policy=Change(boot_test=BootTests.EACH))
    assert made(request, machines).to_be_tested
    assert made(asked, machines).to_be_tested


def test_whoever_cancels_while_it_is_made_ready_has_the_point_and_no_boot_test(
    asked: BackupRequest, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = CancelToken()
    monkeypatch.setattr(retargeting, "retarget", lambda *_: cancel.cancel() or cancel.check())
    request = BackupRequest(asked.source, asked.repository, policy=Change(boot_test=BootTests.EACH))
    result = backup.back_up(request, machines, Task(cancel=cancel))
    assert not result.to_be_tested
    (why,) = result.trouble
    assert "because you cancelled" in why.title
    assert why.remedy is Remedy.RETARGET
    assert len(result.repository.set("laptop").points) == 1


def test_a_plan_names_what_a_new_policy_takes(lab: Lab, machines: Machines) -> None:
    for number in range(3):
        lab.poke(number * 65536, noise(65536, number))
        lab.backup()
    request = BackupRequest(
        SourceRef.of_path(lab.image),
        lab.repository.path,
        set_name="disk",
        policy=Change(2, retarget=False),
    )
    plan = backup.plan(request)
    assert plan.invalidates == ("point 1", "point 2")
    assert "2 no longer stay" in plan.summary
    assert lab.set.settings.policy == Policy()
    lab.poke(0, noise(65536, 7))
    made(request, machines)
    assert [point.sequence for point in lab.set.points] == [3, 4]
    assert backup.plan(request).invalidates == (), "that was shown before"


def test_a_folder_that_is_a_bad_place_is_said_where_a_set_is_begun(
    asked: BackupRequest, machines: Machines
) -> None:
    assert "source's own disk" in backup.plan(asked).summary
    made(asked, machines)
    assert "source's own disk" not in backup.plan(asked).summary


def test_where_backups_were_seen_no_repository_is_begun_anew(asked: BackupRequest) -> None:
    request = BackupRequest(asked.source, asked.repository, seen=True)
    with pytest.raises(RepositoryError):
        backup.plan(request)
    assert not asked.repository.exists()


def test_nothing_is_made_in_a_folder_that_is_not_apart_from_the_source(disk: Path) -> None:
    with pytest.raises(BackupError, match="inside the repository"):
        backup.plan(BackupRequest(SourceRef.of_path(disk), disk.parent))
    assert sorted(path.name for path in disk.parent.iterdir()) == [disk.name]


def test_a_backup_that_begins_later_goes_on_from_what_is_there_then(
    asked: BackupRequest, machines: Machines
) -> None:
    shown = backup.plan(asked)
    assert shown.new_set
    made(asked, machines)
    assert made(asked, machines).point.sequence == 2
