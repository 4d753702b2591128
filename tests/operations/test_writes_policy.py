"""A set's policy thins and forgets kept writes after backups; what stays reads as it did."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.operations.test_thinning import ENDED, WRITES, lab, logged, offered, state, truth
from tests.repository.kept import SECOND, SESSION
from vdbackup.backup.forecast import Outcome
from vdbackup.errors import ChangedMeanwhile, UsageError
from vdbackup.jobs import Task
from vdbackup.operations import backup, pins, policy, writes_policy
from vdbackup.operations.backup import BackupRequest
from vdbackup.operations.machines import Machines
from vdbackup.operations.policy import OFF, Change
from vdbackup.operations.writes_policy import LogFate
from vdbackup.repository import holds
from vdbackup.repository.kept_logs import kept_logs
from vdbackup.repository.policy import Policy
from vdbackup.sources.reference import SourceRef

__all__ = ["lab"]
SOON = datetime.fromisoformat(ENDED) + timedelta(minutes=5)
NEXT_WEEK = SOON + timedelta(days=8)
THIN = Policy(keep_writes=300, moments_every=60)


def fate(lab: Lab, wanted: Policy, at: datetime = SOON) -> LogFate:
    (found,) = writes_policy.foretold(lab.repository, "disk", wanted, at)
    return found


def applied(lab: Lab, tmp_path: Path, wanted: Policy, at: datetime = SOON) -> list[str]:
    with lab.repository.lock("a test"):
        lab.repository.set_policy("disk", wanted)
    folder = tmp_path / "sessions"
    done = writes_policy.after_backup(lab.repository, ["disk"], folder, at, Task())
    assert done.trouble == ()
    return list(done.done)


def session_on(lab: Lab, tmp_path: Path, point_id: str | None = None) -> None:
    """A session that is kept, of the log's machine or on another moment."""
    (point,) = lab.set.points
    session = SESSION if point_id is None else "20261130-080000-abcdef"
    folder = tmp_path / session
    folder.mkdir()
    where = point if point_id is None else lab.repository.find_state(point_id)[1]
    holds.place(lab.set, where, session, "web", folder)


def test_after_a_backup_what_is_old_is_thinned_and_reads_as_it_did(
    lab: Lab, tmp_path: Path
) -> None:
    kept = logged(lab)
    was, length = offered(lab), kept.path.stat().st_size
    shown = fate(lab, THIN)
    assert shown.outcome is Outcome.GOES
    (said,) = applied(lab, tmp_path, THIN)
    now = offered(lab)
    assert len(was) - len(now) == len(shown.going)
    assert length - kept.path.stat().st_size >= shown.frees > 0
    assert f"{len(shown.going)} of {len(was)} consistent moments" in said
    for write, _ in now:
        assert state(lab, write) == truth(lab, write), write
    assert fate(lab, THIN).outcome is Outcome.STAYS, "once is enough"
    assert applied(lab, tmp_path, THIN) == []


def test_moments_that_are_too_old_go_and_the_log_begins_behind_them(
    lab: Lab, tmp_path: Path
) -> None:
    logged(lab)
    was = offered(lab)
    middle = was[len(was) // 2][1]
    at = datetime.fromtimestamp(middle / SECOND, UTC) + timedelta(days=7)
    wanted = Policy(forget_moments=7 * 86400)
    applied(lab, tmp_path, wanted, at)
    now = offered(lab)
    assert now == [was[0], *(each for each in was if each[1] > middle)]
    for write in (*(write for write, _ in now), WRITES - 1, WRITES - 2):
        assert state(lab, write) == truth(lab, write), write


def test_a_log_that_is_too_old_goes_wholly_once_its_session_has(lab: Lab, tmp_path: Path) -> None:
    kept = logged(lab)
    session_on(lab, tmp_path)
    wanted = Policy(forget_moments=7 * 86400)
    last = offered(lab)[-1]
    applied(lab, tmp_path, wanted, NEXT_WEEK)
    assert [write for write, _ in offered(lab)] == [0, last[0]], "it may be opened again"
    assert state(lab, last[0]) == truth(lab, last[0])
    holds.release(lab.set.folder, SESSION)
    shown = fate(lab, wanted, NEXT_WEEK)
    assert (shown.whole, shown.outcome) == (True, Outcome.GOES)
    (said,) = applied(lab, tmp_path, wanted, NEXT_WEEK)
    assert "deleted" in said
    assert kept_logs(lab.set.folder) == []
    assert not kept.path.exists()


def test_what_is_pinned_held_or_goes_on_stays_as_it_is(lab: Lab, tmp_path: Path) -> None:
    kept = logged(lab)
    before = lab.files
    harsh = replace(THIN, forget_moments=60)
    (point,) = lab.set.points
    pins.run(pins.plan(lab.repository, "disk", point.id, "mine"), Task())
    assert "pinned" in fate(lab, harsh, NEXT_WEEK).why
    assert applied(lab, tmp_path, harsh, NEXT_WEEK) == []
    pins.run(pins.plan(lab.repository, "disk", point.id, None), Task())
    session_on(lab, tmp_path, "1@w9")
    assert fate(lab, harsh, NEXT_WEEK).outcome is Outcome.LATER
    assert applied(lab, tmp_path, harsh, NEXT_WEEK) == []
    assert state(lab, 9) == truth(lab, 9)
    holds.release(lab.set.folder, "20261130-080000-abcdef")
    replace(kept, protection=replace(kept.protection, ended=None, cause="")).save()
    elsewhere = tmp_path / SESSION
    holds.place(lab.set, point, SESSION, "web", elsewhere)
    hold = lab.set.folder / f"hold-{SESSION}.json"
    hold.write_text(hold.read_text().replace('"host": "', '"host": "other-').replace(
        '"machine": "', '"machine": "0'
    ))  # fmt: skip
    shown = fate(lab, harsh, NEXT_WEEK)
    assert (shown.outcome, "may still be added" in shown.why) == (Outcome.LATER, True)
    assert applied(lab, tmp_path, harsh, NEXT_WEEK) == []
    assert {name for name in before if name.startswith("writes")} <= set(lab.files)
    assert kept.path.stat().st_size > 0


def test_a_damaged_log_is_left_alone_and_costs_no_other(lab: Lab, tmp_path: Path) -> None:
    kept = logged(lab)
    whole = kept.path.read_bytes()
    kept.path.write_bytes(whole[: len(whole) // 2])
    assert applied(lab, tmp_path, replace(THIN, forget_moments=60)) == []
    assert kept.path.read_bytes() == whole[: len(whole) // 2]


def test_the_plan_says_what_goes_and_an_old_plan_takes_no_more(lab: Lab, tmp_path: Path) -> None:
    kept = logged(lab)
    before = lab.files
    change = Change(keep_writes=300, moments_every=60)
    plan = policy.plan(lab.repository, "disk", change)
    assert lab.files == before
    (shown,) = plan.thinned
    assert shown.name in plan.summary
    assert plan.invalidates == (shown.name,)
    assert "every write of the last 5 minutes" in plan.summary
    replace(kept, protection=replace(kept.protection, before=3)).save()  # others by now
    with pytest.raises(ChangedMeanwhile, match="more moments would go"):
        policy.run(plan, Task())
    assert lab.set.settings.policy == Policy()
    replace(kept, protection=kept.protection).save()
    result = policy.run(plan, Task())
    assert result.policy == Policy(keep_writes=300, moments_every=60)
    assert offered(lab)[-1][0] == WRITES
    ended = policy.run(
        policy.plan(lab.repository, "disk", Change(keep_writes=OFF, moments_every=OFF)), Task()
    )
    assert ended.policy == Policy()
    assert ended.sentences == ("Of the writes kept beside disk there stays: all moments.",)


def test_points_are_kept_as_before_whatever_is_said_of_writes(lab: Lab) -> None:
    kept = Change(keep="all").of(THIN)
    assert (kept.keep_writes, kept.moments_every) == (300, 60)
    assert not THIN.takes
    assert Policy(moments_every=5).writes.within == 3600
    with pytest.raises(UsageError):
        Policy(forget_moments=0)


def test_a_log_that_was_gone_on_with_since_it_was_looked_at_stays(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour lies between the look and the deed: its session was opened again, and ended."""
    kept = logged(lab)
    for wanted, at in ((THIN, SOON), (Policy(forget_moments=60), NEXT_WEEK)):
        shown = fate(lab, wanted, at)
        replace(kept, protection=replace(kept.protection, title="later")).save()
        monkeypatch.setattr(writes_policy, "foretold", lambda *_, shown=shown: [shown])
        before = lab.files
        assert applied(lab, tmp_path, wanted, at) == []
        assert {name: lab.files[name] for name in before if name.startswith("writes")} == {
            name: before[name] for name in before if name.startswith("writes")
        }
        monkeypatch.undo()
        kept.save()


def test_a_backup_thins_and_says_so(lab: Lab, tmp_path: Path) -> None:
    logged(lab)
    was = len(offered(lab))
    change = Change(keep_writes=300, moments_every=60)
    request = BackupRequest(
        source=SourceRef.of_path(lab.image), repository=lab.repository.path, policy=change
    )  # fmt: skip
    planned = backup.plan(request)
    assert "consistent moments of web" in planned.summary
    machines = Machines(tmp_path / "sessions")
    made = backup.back_up(replace(request, policy=Change()), machines, Task())
    assert len(offered(lab)) == was, "no policy yet"
    made = backup.back_up(request, machines, Task())
    assert len(offered(lab)) < was
    assert any("consistent moments went" in note for note in made.notes), made.notes
    assert made.trouble == ()


def test_what_was_pinned_since_it_was_looked_at_stays(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several logs are thinned one after the other, and each may take minutes."""
    kept = logged(lab)
    (point,) = lab.set.points
    whole = kept.path.read_bytes()
    for wanted, at in ((THIN, SOON), (Policy(forget_moments=60), NEXT_WEEK)):
        shown = fate(lab, wanted, at)
        assert shown.outcome is Outcome.GOES
        pins.run(pins.plan(lab.repository, "disk", point.id, "mine"), Task())
        monkeypatch.setattr(writes_policy, "foretold", lambda *_, shown=shown: [shown])
        assert applied(lab, tmp_path, wanted, at) == []
        assert kept.path.read_bytes() == whole
        monkeypatch.undo()
        pins.run(pins.plan(lab.repository, "disk", point.id, None), Task())


def test_a_log_of_whose_newest_writes_nobody_knows_the_time_is_not_called_old(
    lab: Lab, tmp_path: Path
) -> None:
    """Its computer was switched off, or its notes are damaged: what was written yesterday stays."""
    kept = logged(lab)
    replace(kept, protection=replace(kept.protection, ended=None, cause="")).save()
    notes = kept.index.read_bytes()
    kept.index.write_bytes(notes[: len(notes) // 2])
    yesterday = (NEXT_WEEK - timedelta(days=1)).timestamp()
    os.utime(kept.path, (yesterday, yesterday))
    applied(lab, tmp_path, Policy(forget_moments=7 * 86400), NEXT_WEEK)
    assert kept_logs(lab.set.folder) != []
    for write in (WRITES, WRITES - 1, WRITES - 2):
        assert state(lab, write) == truth(lab, write), write
