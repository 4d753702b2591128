"""Holds: a point that a session lies on is not taken away, by nobody, until the session is gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.merge_cut_off import cut_off_before
from tests.backup.once import once
from tests.backup.sharing import sharing_storage
from tests.noise import noise
from vdbackup.backup import delete, merge
from vdbackup.errors import PointInUse, Remedy
from vdbackup.jobs import Progress, Task, Waiting, retry_when_cleared
from vdbackup.repository import holds
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.journal import JOURNAL_NAME, Journal
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy

SESSION = "20260301-120000-abcdef"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return three_points(Lab(tmp_path))


@once
def three_points(lab: Lab) -> None:
    for number in range(3):
        lab.poke(number * BLOCK, noise(BLOCK, number))
        lab.backup()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A session's folder."""
    folder = tmp_path / SESSION
    folder.mkdir()
    return folder


def hold(lab: Lab, number: int, folder: Path) -> RecoveryPoint:
    point = lab.set.points[number - 1]
    assert holds.place(lab.set, point, SESSION, "laptop", folder)
    return point


def test_a_point_that_would_go_in_a_merge_is_kept_and_the_session_named(
    lab: Lab, folder: Path
) -> None:
    hold(lab, 1, folder)
    before = lab.files
    with pytest.raises(PointInUse, match=f"Point 1 is in use: the session {SESSION}") as refused:
        lab.merge(lab.set.points[1])
    assert (refused.value.remedy, refused.value.about) == (Remedy.END_SESSION, SESSION)
    assert lab.files == before


def test_a_plan_says_that_a_session_is_in_its_way_and_names_it(lab: Lab, folder: Path) -> None:
    first, second = lab.set.points[:2]
    assert merge.plan(lab.repository, "disk", second.id).hindrance == ""
    hold(lab, 1, folder)
    for plan in (
        merge.plan(lab.repository, "disk", second.id),
        delete.plan(lab.repository, "disk", first.id),
    ):
        assert f"a session on point 1: {SESSION} of laptop." in plan.hindrance
    assert delete.plan(lab.repository, "disk", second.id).hindrance == ""


def test_a_merge_that_was_planned_before_the_session_began_is_refused(
    lab: Lab, folder: Path
) -> None:
    plan = merge.plan(lab.repository, "disk", lab.set.points[1].id)
    hold(lab, 1, folder)
    with pytest.raises(PointInUse):
        merge.run(plan, Task())


def test_a_merge_that_waits_goes_on_when_the_session_is_gone(lab: Lab, folder: Path) -> None:
    plan = merge.plan(lab.repository, "disk", lab.set.points[1].id)
    hold(lab, 1, folder)
    said: list[str] = []

    def report(progress: Progress) -> None:
        if isinstance(progress, Waiting):
            said.append(progress.phase)
            holds.release(lab.set_folder, SESSION)

    result = retry_when_cleared(lambda task: merge.run(plan, task))(Task(report))
    assert result.point.sequence == 2
    assert said[0].startswith(f"Point 1 is in use: the session {SESSION}")
    lab.check_all()


def test_a_session_that_begins_while_a_merge_does_wins(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has been checked, which takes long; nothing has been moved."""
    save = Journal.save

    def begin_and_save(journal: Journal, where: Path) -> None:
        hold(lab, 1, folder)
        save(journal, where)

    monkeypatch.setattr(Journal, "save", begin_and_save)
    with pytest.raises(PointInUse):
        lab.merge(lab.set.points[1])
    assert lab.set.journal is None
    holds.release(lab.set_folder, SESSION)
    lab.check_all()


@pytest.mark.parametrize("shared", [False, True])
def test_a_merge_that_was_cut_off_before_it_saw_a_session_never_happened(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """The computer went down between its journal and its look at the sessions."""
    with sharing_storage("xfs", tmp_path) if shared else nullcontext(tmp_path) as where:
        lab = Lab(tmp_path, repository=where / "backups")
        for number in range(3):
            lab.poke(number * BLOCK, noise(BLOCK, number))
            lab.backup()
        before = lab.files
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "save", begun_first(Journal.save, lab, folder))
            with pytest.raises(KeyboardInterrupt):
                lab.merge(lab.set.points[1])
        assert (lab.set_folder / JOURNAL_NAME).exists()
        assert merge.recover(lab.repository, Task()) == merge.Recovered()
        holds.release(lab.set_folder, SESSION)
        assert lab.files == before
        lab.check_without_processes()


def begun_first(
    save: Callable[[Journal, Path], None], lab: Lab, folder: Path
) -> Callable[[Journal, Path], None]:
    def begin_save_and_die(journal: Journal, where: Path) -> None:
        hold(lab, 1, folder)
        save(journal, where)
        raise KeyboardInterrupt

    return begin_save_and_die


def test_a_merge_that_had_begun_to_copy_is_finished_whatever_holds_its_parent(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its moment is gone: nothing is left to be kept, and the set would be stuck for ever."""

    with monkeypatch.context() as patch:
        cut_off_before(patch, "join")
        with pytest.raises(KeyboardInterrupt):
            lab.merge(lab.set.points[1])
    parent = lab.set.hidden[0]
    assert holds.place(lab.set, parent, SESSION, "laptop", folder)
    assert merge.recover(lab.repository, Task()).done
    holds.release(lab.set_folder, SESSION)
    lab.check_all()


def test_a_session_on_the_child_of_a_merge_stays_on_the_result(lab: Lab, folder: Path) -> None:
    point = hold(lab, 2, folder)
    assert lab.merge(point).id == point.id
    with pytest.raises(PointInUse):
        lab.merge(lab.set.points[1])


@pytest.mark.parametrize("number", [1, 3])
def test_a_held_point_is_not_deleted(lab: Lab, folder: Path, number: int) -> None:
    """Neither the first, whose child would be rolled into it, nor the last."""
    plan = delete.plan(lab.repository, "disk", lab.set.points[number - 1].id)
    hold(lab, number, folder)
    with pytest.raises(PointInUse, match=f"Point {number} is in use"):
        delete.run(plan, Task())
    with pytest.raises(PointInUse):
        lab.delete(lab.set.points[number - 1])
    assert len(lab.set.points) == 3


def test_a_policy_passes_over_a_held_point_with_a_note(lab: Lab, folder: Path) -> None:
    hold(lab, 2, folder)
    lab.poke(7 * BLOCK, noise(BLOCK, 9))
    result = lab.capture(policy=Policy(1))
    assert [point.sequence for point in lab.set.points] == [2, 4]
    assert any(f"Point 2 stays for now: Point 2 is in use: the session {SESSION}" in note
               for note in result.notes)  # fmt: skip
    assert result.warnings == ()
    holds.release(lab.set_folder, SESSION)
    lab.backup()
    assert [point.sequence for point in lab.set.points] == [5]
    lab.check_all()


def test_a_session_that_is_gone_holds_nothing(lab: Lab, folder: Path) -> None:
    hold(lab, 1, folder)
    shutil.rmtree(folder)
    lab.merge(lab.set.points[1])
    lab.check_all()  # the hold itself is gone, too


def test_planning_takes_no_hold_away(lab: Lab, folder: Path) -> None:
    """Neither that of a session that is gone, which counts no more."""
    hold(lab, 1, folder)
    shutil.rmtree(folder)
    before = lab.files
    first, second, _ = lab.set.points
    assert SESSION not in merge.plan(lab.repository, "disk", second.id).summary
    assert SESSION not in delete.plan(lab.repository, "disk", first.id).summary
    assert lab.files == before


@pytest.mark.parametrize("other", [{"machine": "b" * 32}, {"boot": "another"}, {"boot": ""}])
def test_a_computer_of_the_same_name_holds_until_it_lets_go(
    lab: Lab, folder: Path, other: dict[str, str]
) -> None:
    """A clone, a container, one that was started anew, or an older version's hold."""
    hold(lab, 1, folder)
    path = lab.set_folder / f"hold-{SESSION}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    shutil.rmtree(folder)
    with pytest.raises(PointInUse):
        lab.merge(lab.set.points[1])
    assert path.exists()


def test_a_hold_of_an_older_version_counts(lab: Lab, folder: Path) -> None:
    hold(lab, 1, folder)
    path = lab.set_folder / f"hold-{SESSION}.json"
    said = json.loads(path.read_text())
    path.write_text(
        json.dumps({n: said[n] for n in said if n not in ("machine", "boot", "within")})
    )
    assert [each.is_ours for each in holds.of(lab.set)] == [True]
    with pytest.raises(PointInUse):
        lab.merge(lab.set.points[1])


def test_a_session_on_a_drive_that_is_not_there_holds(lab: Lab, tmp_path: Path) -> None:
    """What its folder lay in is another one now: the empty mount point."""
    drive = tmp_path / "drive"
    (drive / SESSION).mkdir(parents=True)
    hold(lab, 1, drive / SESSION)
    drive.rename(tmp_path / "unplugged")
    with pytest.raises(PointInUse):
        lab.merge(lab.set.points[1])
    drive.mkdir()
    with pytest.raises(PointInUse):
        lab.merge(lab.set.points[1])


def test_a_hold_that_is_just_being_written_is_not_swept_away(lab: Lab) -> None:
    partial = lab.set_folder / f"hold-{SESSION}.json.partial"
    partial.write_text("{")
    lab.backup()
    assert partial.exists()


def test_another_computers_session_holds_until_it_is_released(lab: Lab, folder: Path) -> None:
    hold(lab, 1, folder)
    shutil.rmtree(folder)
    (lab.set_folder / f"hold-{SESSION}.json").write_text(
        json.dumps({
            "point": lab.set.points[0].id, "session": SESSION, "title": "laptop",
            "host": "server", "user": "eve", "folder": str(folder),
            "since": "2026-03-01T12:00:00+00:00",
        })
    )  # fmt: skip
    with pytest.raises(PointInUse, match="of eve on server") as refused:
        lab.merge(lab.set.points[1])
    assert refused.value.remedy is Remedy.END_SESSION_ELSEWHERE
    assert holds.release(lab.set_folder, SESSION)
    assert not holds.release(lab.set_folder, SESSION)
    lab.merge(lab.set.points[1])


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"point": 3}', '{"since": "yesterday"}', '{"session": "another"}',
        "\0" * 100, "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_hold_may_be_of_any_point_and_holds_until_it_is_released(
    lab: Lab, folder: Path, content: str
) -> None:
    hold(lab, 1, folder)
    path = lab.set_folder / f"hold-{SESSION}.json"
    if content.startswith('{"'):
        content = json.dumps(json.loads(path.read_text()) | json.loads(content))
    path.write_text(content)
    for point in lab.set.points:
        assert SESSION in holds.hindrance(lab.set, point)
        with pytest.raises(PointInUse, match=f"the note of the session {SESSION} is damaged"):
            holds.check_free(lab.set, [point])
    assert holds.release(lab.set_folder, SESSION)
    holds.check_free(lab.set, lab.set.points)


def test_a_repository_that_cannot_be_written_to_is_not_held(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(holds, "write_json", refuse)
    assert not holds.place(lab.set, lab.set.points[0], SESSION, "laptop", folder)
    assert holds.of(lab.set) == []


@pytest.mark.parametrize("name", ["", "x", "../../etc/passwd", f"{SESSION}/../x"])
def test_only_a_sessions_id_makes_a_name(lab: Lab, name: str) -> None:
    with pytest.raises(ValueError, match="no session's id"):
        holds.release(lab.set_folder, name)


def of_another_computer(lab: Lab, folder: Path, program: str) -> None:
    """A machine on point 3, as another computer would have noted it."""
    point = lab.set.points[2]
    assert holds.place(lab.set, point, SESSION, "laptop", folder, program)
    make_foreign(lab)


def make_foreign(lab: Lab) -> None:
    """Have the hold be another computer's."""
    file = lab.set_folder / f"hold-{SESSION}.json"
    elsewhere = {"machine": "b" * 32, "boot": "another", "host": "upstairs", "user": "eva"}
    file.write_text(json.dumps(json.loads(file.read_text()) | elsewhere))


def test_no_layer_goes_from_below_a_machine_that_another_computers_program_may_run(
    lab: Lab, folder: Path
):
    """VirtualBox makes no claim, and nobody here sees it run."""
    of_another_computer(lab, folder, "virtualbox")
    before = lab.files
    plan = merge.plan(lab.repository, lab.set.name, lab.set.points[1].id)
    assert "laptop of eva on upstairs" in plan.hindrance
    with pytest.raises(PointInUse, match="laptop of eva on upstairs") as refused:
        lab.merge(lab.set.points[1])
    assert (refused.value.remedy, refused.value.about) == (Remedy.END_SESSION_ELSEWHERE, SESSION)
    assert lab.files == before
    with pytest.raises(PointInUse, match="upstairs"):
        lab.delete(lab.set.points[0])
    assert lab.files == before
    holds.release(lab.set_folder, SESSION)
    lab.merge(lab.set.points[1])
    lab.check_ours(lab.set.points[-1])


def test_a_machine_of_ours_on_another_computer_and_another_branch_hinder_nothing_below(
    lab: Lab, folder: Path
):
    of_another_computer(lab, folder, "")
    lab.merge(lab.set.points[1])
    holds.release(lab.set_folder, SESSION)
    lab.backup("full")
    lab.backup()
    point = lab.set.points[1]
    assert holds.place(lab.set, point, SESSION, "laptop", folder, "virtualbox")
    lab.merge(lab.set.points[3])


def test_a_merge_that_was_cut_off_before_it_saw_another_computers_machine_never_happened(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lab.files
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "save", noted_first(Journal.save, lab, folder))
        with pytest.raises(KeyboardInterrupt):
            lab.merge(lab.set.points[1])
    assert (lab.set_folder / JOURNAL_NAME).exists()
    assert merge.recover(lab.repository, Task()) == merge.Recovered()
    holds.release(lab.set_folder, SESSION)
    assert lab.files == before


def noted_first(
    save: Callable[[Journal, Path], None], lab: Lab, folder: Path
) -> Callable[[Journal, Path], None]:
    def note_save_and_die(journal: Journal, where: Path) -> None:
        of_another_computer(lab, folder, "virtualbox")
        save(journal, where)
        raise KeyboardInterrupt

    return note_save_and_die


@pytest.mark.parametrize("step", ["join", "manifest"])
def test_a_merge_that_was_cut_off_waits_for_another_computers_machine_above(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It began when the journal lay there: going on would take its layers away."""
    with monkeypatch.context() as patch:
        cut_off_before(patch, step)
        with pytest.raises(KeyboardInterrupt):
            lab.merge(lab.set.points[1])
    point = lab.set.points[-1]
    assert holds.place(lab.set, point, SESSION, "laptop", folder, "virtualbox")
    make_foreign(lab)
    before = lab.files
    (error,) = merge.recover(lab.repository, Task()).undone
    assert "laptop of eva on upstairs" in str(error)
    assert lab.files == before
    lab.check_ours(point)
    lab.poke(9 * BLOCK, noise(BLOCK, 9))
    assert any("is finished later" in each for each in lab.capture().warnings)
    holds.release(lab.set_folder, SESSION)
    assert merge.recover(lab.repository, Task()).done
    lab.check_all()
