"""Whatever is done to a set beside whose points writes are kept: their moments stay, to the byte.

Or it is refused, and the log named. Of a log that is damaged nobody knows which point it needs.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.machines import Disks
from tests.backup.merge_cut_off import cut_off_before
from tests.backup.once import once
from tests.backup.sessions import begin, promoted, writes
from tests.disks.write_log.logs import Entry
from tests.noise import noise
from tests.repository import kept as spoilt
from tests.repository.kept import SESSION, expected, keep, some_writes
from vdbackup.backup import convert, delete, merge, repair
from vdbackup.disks.write_log.index import Index, IndexWriter
from vdbackup.errors import PointInUse, Remedy, VdbackupError
from vdbackup.jobs import Task
from vdbackup.operations import policy, protection, several
from vdbackup.operations.schedules import merging
from vdbackup.operations.schedules.store import Schedule, Store
from vdbackup.recovery.retarget import retarget
from vdbackup.repository import holds
from vdbackup.repository.journal import JOURNAL_NAME
from vdbackup.repository.kept_logs import KeptLog, kept_log
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy

WRITES = 30
LOGGED = 2
"""Number of the point that the log is on."""
KEEP_ONE = Policy(keep=1)


class Moments:
    """A log on a lab's second point, and what the disk was after some of its writes.

    Attributes:
        kept: the log.
    """

    def __init__(self, lab: Lab, entries: Sequence[Entry], kept: KeptLog) -> None:
        self._lab, self.kept = lab, kept
        before = lab.moments[point(lab, LOGGED).id].read_bytes()
        chosen = {0, WRITES, *random.Random(3).sample(range(1, WRITES), 5)}
        self.states = {each: sha(expected(entries, before, each)) for each in sorted(chosen)}

    def check(self, number: int = LOGGED) -> None:
        """Each is there, to the byte, and digests are those of what is read."""
        for write, state in self.states.items():
            reference = f"{number}@{SESSION}.w{write}"
            backup_set, moment = self._lab.repository.find_state(reference)
            with backup_set.open_chain(moment) as disk:
                view = memoryview(bytearray(disk.size))
                disk.readinto(0, view)
            assert sha(view) == state, f"moment {write} reads wrong"


def sha(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


@once
def three_points(lab: Lab) -> None:
    for number in range(3):
        lab.poke(number * 4 * 65536, noise(65536, number))
        lab.backup()


@pytest.fixture
def points(lab: Lab) -> Lab:
    three_points(lab)
    return lab


def point(lab: Lab, number: int) -> RecoveryPoint:
    return lab.repository.find(str(number), "disk")[1]


def logged(lab: Lab, ended: str | None = "2026-11-30T07:00:00+00:00") -> Moments:
    entries = some_writes(WRITES, lab.size)
    return Moments(lab, entries, keep(lab, point(lab, LOGGED), entries, ended=ended))


@pytest.fixture(params=["running", "ended"])
def moments(points: Lab, request: pytest.FixtureRequest) -> Moments:
    return logged(points, None if request.param == "running" else "2026-11-30T07:00:00+00:00")


def moved(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")


RECORDS: dict[str, Callable[[Path], None]] = {
    "torn": spoilt.torn,
    "garbled": spoilt.garbled,
    "empty": spoilt.emptied,
    "gone": moved,
    "newer": spoilt.made_newer,
    "link": spoilt.as_link,
    "pipe": spoilt.as_pipe,
    "folder": spoilt.as_folder,
    "other session": spoilt.of_another_session,
    "no point": spoilt.of_no_point,
}
DAMAGES = pytest.mark.parametrize("damage", RECORDS.values(), ids=RECORDS)
LOGS: dict[str, Callable[[Path], None]] = {
    "torn": spoilt.torn,
    "garbled": spoilt.garbled,
    "empty": spoilt.emptied,
    "gone": moved,
    "link": spoilt.as_link,
    "pipe": spoilt.as_pipe,
    "folder": spoilt.as_folder,
}


# ------------------------------------------------------------------------- while it is whole


def test_its_point_is_neither_deleted_nor_merged_away(points: Lab, moments: Moments) -> None:
    before = points.files
    for take in (lambda: points.delete(point(points, 2)), lambda: points.merge(point(points, 3))):
        with pytest.raises(PointInUse, match=f"every write of the session {SESSION}") as refused:
            take()
        assert refused.value.remedy is Remedy.FORGET_WRITES
    assert "every write" in merge.plan(points.repository, "disk", point(points, 3).id).hindrance
    assert points.files == before
    moments.check()


def test_a_merge_below_it_leaves_its_moments(points: Lab, moments: Moments) -> None:
    points.delete(point(points, 1))
    moments.check()
    for each in points.set.points:
        points.check_ours(each)


def test_what_hangs_on_its_point_goes_without_it(points: Lab, moments: Moments) -> None:
    points.delete(point(points, 3))
    moments.check()


def test_a_policy_takes_what_it_can_and_leaves_the_point(points: Lab, moments: Moments) -> None:
    said = points.capture(policy=KEEP_ONE).notes
    assert any(f"every write of the session {SESSION}" in each for each in said), said
    assert [each.sequence for each in points.set.points] == [2, 4]
    moments.check()


def test_its_points_overlay_is_not_made_anew(points: Lab, moments: Moments, tmp_path: Path) -> None:
    with pytest.raises(PointInUse, match="every write"):
        retarget.retarget(
            points.repository, "disk", point(points, 2).id, retarget.NONE, tmp_path, Task()
        )
    moments.check()


def test_points_made_from_it_and_beside_it_cost_no_moment(
    points: Lab, moments: Moments, tmp_path: Path
) -> None:
    session = begin(points, point(points, 2), tmp_path / "session")
    writes(session, "write -P 7 0 64k")
    promoted(points, point(points, 2), session)
    plan = protection.plan_point(points.repository, "disk", f"{point(points, 2).id}@{SESSION}.w9")
    protection.make_point(plan, tmp_path / "sessions", Task())
    moments.check()


def test_a_set_that_is_converted_keeps_its_moments(points: Lab, moments: Moments) -> None:
    other = "qcow2" if points.disk_format != "qcow2" else "vhdx"
    plan = convert.plan(points.repository, "disk", other)
    assert "moments" in plan.summary, "that they do not come along is said"
    convert.run(plan, Task())
    for write in moments.states:
        with pytest.raises(VdbackupError):
            points.repository.find_state(f"2@w{write}", plan.target)
    moments_in_old(points, moments)


def moments_in_old(lab: Lab, moments: Moments) -> None:
    for write, state in moments.states.items():
        backup_set, found = lab.repository.find_state(f"2@w{write}", "disk")
        with backup_set.open_chain(found) as disk:
            view = memoryview(bytearray(disk.size))
            disk.readinto(0, view)
        assert sha(view) == state


def test_a_repair_that_makes_all_records_anew_keeps_its_moments(
    points: Lab, moments: Moments
) -> None:
    for each in points.set.points:
        for name in (each.digests, each.disk.partition(".")[0] + ".json", each.overlay):
            (points.set_folder / name).unlink()
    repair.run(points.repository.path, Task())
    moments.check()
    with pytest.raises(PointInUse, match="every write"):
        points.delete(point(points, 2))


def test_a_repair_that_loses_what_the_writes_lie_on_says_so(points: Lab) -> None:
    """An overlay with changes cannot be made again; it was put aside, and can be put back."""
    size = point(points, 2).virtual_size
    entries = some_writes(WRITES, size)
    keep(points, point(points, 2), entries, overlay_contents="f" * 64)
    points.overlay(point(points, 2)).write_bytes(b"damaged")
    said = "\n".join(repair.run(points.repository.path, Task()).done)
    assert f"the kept writes of the session {SESSION}" in said
    assert "quarantine" in said


def test_a_merge_that_was_cut_off_ends_and_its_moments_stay(
    points: Lab, moments: Moments, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        cut_off_before(patched, "delete")
        with pytest.raises(KeyboardInterrupt):
            points.merge(point(points, 2))
    points.backup()
    assert [each.sequence for each in points.set.points] == [2, 3, 4]
    moments.check()


# ------------------------------------------------------------------- several at once, by the clock


def several_that_take_its_point(lab: Lab, sessions: Path) -> list[Callable[[], object]]:
    """A range that ends above it, and a deletion of it among others."""
    ids = {each.sequence: each.id for each in lab.set.points}
    merged = several.plan_merge(lab.repository, "disk", [ids[2], ids[3]])
    deleted = several.plan_delete(lab.repository, "disk", [ids[2]])
    assert SESSION in merged.hindrance
    assert SESSION in deleted.hindrance
    return [
        lambda: several.merge_range(merged, sessions, Task()),
        lambda: several.delete_several(deleted, sessions, Task()),
    ]


def test_a_range_and_several_points_are_not_taken_with_it(
    points: Lab, moments: Moments, tmp_path: Path
) -> None:
    before = points.files
    for take in several_that_take_its_point(points, tmp_path):
        with pytest.raises(PointInUse, match="every write"):
            take()
    assert points.files == before
    below = several.plan_merge(
        points.repository, "disk", [point(points, 1).id, point(points, 2).id]
    )
    assert below.hindrance == ""
    several.merge_range(below, tmp_path, Task())
    moments.check()


@DAMAGES
def test_a_range_and_several_points_stay_beside_a_damaged_log(
    points: Lab, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    damage(logged(points).kept.record)
    before = points.files
    for take in several_that_take_its_point(points, tmp_path):
        with pytest.raises(PointInUse, match="nobody can tell"):
            take()
    assert points.files == before


@pytest.mark.parametrize("wanted", [KEEP_ONE, Policy(at_most_bytes=1)], ids=["one", "bytes"])
@pytest.mark.parametrize("damage", [None, spoilt.torn, moved], ids=["whole", "torn", "gone"])
def test_what_a_schedule_merges_at_its_time_is_not_its_point(
    points: Lab, wanted: Policy, damage: Callable[[Path], None] | None, tmp_path: Path
) -> None:
    found = logged(points)
    stored = found.kept.record.read_bytes()
    with points.repository.lock("a test"):
        points.repository.set_policy("disk", wanted)
    if damage is not None:
        damage(found.kept.record)
    schedule = Schedule(points.repository.path, "disk", "1m", merge_at="03:00")
    merged = merging.run(Store(tmp_path / "c", tmp_path / "d"), schedule, tmp_path, Task())
    assert any(SESSION in each for each in merged.done)
    there = [each.sequence for each in points.set.points]
    assert there == ([2, 3] if damage is None else [1, 2, 3])
    put_back(found.kept.record, stored)
    found.check()


# --------------------------------------------------------------------------- when it is damaged


@pytest.mark.timeout(60)
@DAMAGES
def test_where_nobody_knows_which_point_it_needs_none_is_taken(
    points: Lab, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    found = logged(points)
    stored = found.kept.record.read_bytes()
    damage(found.kept.record)
    before = points.files
    for number in (1, 2, 3):
        with pytest.raises(PointInUse, match="nobody can tell") as refused:
            points.delete(point(points, number))
        assert SESSION in refused.value.title
        assert refused.value.advice
        assert refused.value.remedy is Remedy.FORGET_WRITES
        assert refused.value.about == SESSION
        hindrance = delete.plan(points.repository, "disk", point(points, number).id).hindrance
        assert SESSION in hindrance
        with pytest.raises(PointInUse, match="nobody can tell"):
            retarget.retarget(
                points.repository, "disk", point(points, number).id, retarget.NONE, tmp_path, Task()
            )
    with pytest.raises(PointInUse, match="nobody can tell"):
        points.merge(point(points, 2))
    assert points.files == before
    said = points.capture(policy=KEEP_ONE).notes
    assert any(SESSION in each for each in said), said
    assert [each.sequence for each in points.set.points] == [1, 2, 3, 4]
    repair.run(points.repository.path, Task())
    with pytest.raises(PointInUse, match="nobody can tell"):
        points.delete(point(points, 2))
    put_back(found.kept.record, stored)
    found.check()


def put_back(record: Path, stored: bytes) -> None:
    if record.is_dir() and not record.is_symlink():
        record.rmdir()
    elif os.path.lexists(record):
        record.unlink()
    record.write_bytes(stored)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", LOGS.values(), ids=LOGS)
def test_a_damaged_log_holds_its_point_and_none_else(
    points: Lab, damage: Callable[[Path], None]
) -> None:
    found = logged(points)
    damage(found.kept.path)
    with pytest.raises(PointInUse, match="every write"):
        points.delete(point(points, 2))
    points.capture(policy=KEEP_ONE)
    assert [each.sequence for each in points.set.points] == [2, 4]
    (listed,) = protection.moments(points.repository, None, None, None)
    assert listed.trouble


@pytest.mark.timeout(60)
@DAMAGES
def test_a_damaged_log_is_listed_with_its_trouble_and_can_be_forgotten(
    points: Lab, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    found = logged(points)
    damage(found.kept.record)
    (listed,) = protection.moments(points.repository, None, None, None)
    assert (listed.kept.session, bool(listed.trouble)) == (SESSION, True)
    name, unread = protection.find_kept(points.repository, SESSION[-6:])
    if found.kept.record.is_dir() and not found.kept.record.is_symlink():
        with pytest.raises(VdbackupError, match="is a folder"):
            protection.forget(points.repository, name, unread.session, tmp_path)
        assert found.kept.path.exists(), "nothing is deleted then"
        return
    protection.forget(points.repository, name, unread.session, tmp_path)
    assert not [each for each in os.listdir(points.set_folder) if each.startswith("writes-")]
    points.delete(point(points, 2))


def test_a_machines_moments_stay_whole_where_one_disk_has_a_damaged_log(tmp_path: Path) -> None:
    disks = Disks(tmp_path)
    for _ in range(3):
        disks.back_up()
    folder = disks.repository.set("home").folder
    (folder / f"writes-{SESSION}.json").write_text("{")
    policy.run(policy.plan(disks.repository, "root", policy.Change(keep=1)), Task())
    disks.back_up()
    assert [len(each.points) for each in disks.repository.sets()] == [4, 4]
    (folder / f"writes-{SESSION}.json").unlink()
    disks.back_up()
    assert [len(each.points) for each in disks.repository.sets()] == [1, 1]


def test_what_was_not_begun_to_the_end_holds_nothing(points: Lab, tmp_path: Path) -> None:
    found = logged(points)
    found.kept.record.rename(str(found.kept.record) + ".partial")
    (listed,) = protection.moments(points.repository, None, None, None)
    assert "not begun" in listed.trouble
    points.delete(point(points, 2))
    protection.forget(points.repository, "disk", SESSION, tmp_path)
    assert not [each for each in os.listdir(points.set_folder) if each.startswith("writes-")]


def test_a_deletion_of_a_log_that_is_cut_off_leaves_what_can_be_deleted_again(
    points: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = logged(points)
    real = Path.unlink

    def fail(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".index":
            raise OSError(5, "power cut")
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail)
        with pytest.raises(OSError, match="power cut"):
            found.kept.remove()
    assert holds.of(points.set) == []
    protection.forget(points.repository, "disk", SESSION, tmp_path)
    assert not [each for each in os.listdir(points.set_folder) if each.startswith("writes-")]


def test_a_log_on_a_point_that_was_merged_away_holds_no_other(points: Lab) -> None:
    """As earlier versions could leave it: its moments are lost, and nothing is in doubt."""
    gone = point(points, 1)
    points.delete(gone)
    keep(points, gone, some_writes(3, points.size))
    assert [hold.is_on(each) for hold in holds.of(points.set) for each in points.set.points] == [
        False, False,
    ]  # fmt: skip


def test_a_damaged_journal_is_repaired_beside_a_log_on_another_point(points: Lab) -> None:
    found = logged(points)
    (points.set_folder / JOURNAL_NAME).write_bytes(b"{")
    repair.run(points.repository.path, Task())
    assert not (points.set_folder / JOURNAL_NAME).exists()
    found.check()


# ------------------------------------------------------------------------------- what is shown


def test_what_is_lost_of_a_log_is_said_and_its_beginning_stays(points: Lab) -> None:
    found = logged(points)
    whole = kept_log(points.set_folder, SESSION).read()
    middle = int(whole.entries.places[len(whole.entries) // 2])
    os.truncate(found.kept.path, middle)
    (listed,) = protection.moments(points.repository, None, None, None)
    assert f"damaged behind write {listed.writes}" in listed.trouble
    offered = [each.write for each in listed.moments]
    assert 0 < max(offered) <= listed.writes < WRITES
    left = {write: state for write, state in found.states.items() if write <= listed.writes}
    lost = [write for write in found.states if write > listed.writes]
    found.states = left
    found.check()
    for write in lost:
        with pytest.raises(VdbackupError):
            points.repository.find_state(f"2@w{write}")


def test_an_entry_that_is_not_what_was_noted_costs_what_comes_behind(points: Lab) -> None:
    found = logged(points)
    whole = kept_log(points.set_folder, SESSION).read()
    at = int(whole.entries.places[20])
    with found.kept.path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 8)
    (listed,) = protection.moments(points.repository, None, None, None)
    assert f"damaged behind write {listed.writes}" in listed.trouble
    assert 0 < listed.writes < WRITES
    found.states = {w: state for w, state in found.states.items() if w <= listed.writes}
    found.check()


def test_a_log_that_ended_at_its_limit_says_so_and_keeps_its_moments(points: Lab) -> None:
    entries = some_writes(WRITES, points.size)
    ended, why = "2026-11-30T07:00:00+00:00", "It takes 64 GB, its limit."
    keep(points, point(points, 2), entries, ended=ended, why=why, cause="limit")
    (listed,) = protection.moments(points.repository, None, None, None)
    assert "nobody had asked for that: It takes 64 GB" in listed.trouble
    assert len(listed.moments) > 1


# --------------------------------------------------------------------------- on another computer


def test_writes_of_a_machine_on_another_computer_are_not_forgotten_while_it_may_run(
    points: Lab, tmp_path: Path
) -> None:
    found = logged(points, ended=None)
    folder = tmp_path / SESSION
    folder.mkdir()
    holds.place(points.set, point(points, 2), SESSION, "web", folder)
    record = points.set_folder / f"hold-{SESSION}.json"
    spoilt.altered(record, host="elsewhere", machine="1" * 32, boot="2")
    with pytest.raises(PointInUse, match="on elsewhere may still be added"):
        protection.forget(points.repository, "disk", SESSION, tmp_path / "sessions")
    found.check()


def test_a_moment_of_a_log_that_was_begun_anew_is_not_the_point_made_of_the_old_one(
    points: Lab,
) -> None:
    """Its session is the same, and so is the number of the write; what was written is not."""
    logged(points)
    reference = f"{LOGGED}@{SESSION}.w{WRITES}"

    def made() -> RecoveryPoint:
        planned = protection.plan_point(
            points.repository, "disk", points.repository.find_state(reference)[1].id
        )
        return protection.make_point(planned, points.folder / "sessions", Task()).point

    old = made()
    assert made().id == old.id, "of the same moment it is found again"
    kept_log(points.set.folder, SESSION).remove()
    entries, began = some_writes(WRITES, points.size, seed=2), spoilt.BEGAN + 3600
    kept = keep(points, point(points, LOGGED), entries, ended="2026-11-30T09:00:00+00:00")
    spoilt.altered(kept.record, since=datetime.fromtimestamp(began, UTC).isoformat())
    headers = Index.read(kept.index).headers
    kept.index.unlink()
    with closing(IndexWriter(kept.index)) as writer:
        writer.note(headers, began * spoilt.SECOND, (began + 1) * spoilt.SECOND)
    new = made()
    assert new.id != old.id
    before = points.moments[point(points, LOGGED).id].read_bytes()
    with points.set.open_chain(new) as disk:
        view = memoryview(bytearray(disk.size))
        disk.readinto(0, view)
    assert sha(view) == sha(expected(entries, before, WRITES))
    assert made().id == new.id
