"""A clock that is set while writes are kept: no moment is taken for another without a word."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.operations import test_thinning as thinning
from tests.operations.test_thinning import ENDED, WRITES, entries, lab, state, thin, truth
from tests.repository.kept import BEGAN, SECOND, SESSION, keep
from vdbackup.disks.write_log.index import Index, IndexWriter
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.operations import protection
from vdbackup.repository.kept_logs import KeptLog
from vdbackup.repository.written import WrittenPoint

__all__ = ["lab"]
HOUR = 3600
STEP = 20


def logged(lab: Lab, *clock: float) -> KeptLog:
    """A log with a note at each flush; of so many flushes each by how much the clock was wrong."""
    kept = keep(lab, lab.set.points[0], entries(), ended=ENDED, cause="machine")
    found = WriteLog.read(kept.path, lab.size).entries
    kept.index.unlink()
    ends = [each + 1 for each in range(len(found)) if int(found.headers["flags"][each]) & 1]
    looked = (BEGAN - 1) * SECOND
    with closing(IndexWriter(kept.index)) as writer:
        for turn, (begin, end) in enumerate(zip((0, *ends[:-1]), ends, strict=True)):
            wrong = clock[min(turn * len(clock) // len(ends), len(clock) - 1)]
            now = round((BEGAN + STEP * turn + wrong) * SECOND)
            writer.note(found.headers[begin:end].tobytes(), looked, now)
            looked = now
    return kept


def at(lab: Lab, seconds: float) -> WrittenPoint:
    named = datetime.fromtimestamp(BEGAN + seconds, UTC).isoformat()
    moment = lab.repository.find_state(f"1@{named}")[1]
    assert isinstance(moment, WrittenPoint)
    return moment


def in_doubt(lab: Lab) -> int:
    (log,) = protection.moments(lab.repository, None, None, None)
    assert not log.trouble
    return log.set_back


def test_what_is_named_by_a_time_before_the_clock_was_set_back_is_said_to_be_in_doubt(
    lab: Lab,
) -> None:
    """Ahead by an hour for a third of the log, then right again."""
    logged(lab, 0, HOUR, 0)
    last = len([each for each in entries() if each.flags & 1]) - 1
    newest = in_doubt(lab)
    assert newest > BEGAN * SECOND + HOUR * SECOND
    for seconds in (STEP * last, STEP * last / 2, HOUR + 1):
        moment = at(lab, seconds)
        assert f"after write {moment.write}" in moment.doubt
        assert state(lab, moment.write) == truth(lab, moment.write)
    later = at(lab, newest / SECOND - BEGAN + 60)
    assert (later.doubt, later.write) == ("", WRITES), "then the clock had got there again"
    assert lab.repository.find_state(f"1@{SESSION}.w9")[1].doubt == "", "numbers are not in doubt"


@pytest.mark.parametrize(
    "clock", [(0,), (0, HOUR), (0, 0.4, -0.4, 0)], ids=["right", "ahead", "exact to a second"]
)
def test_what_leaves_no_doubt_is_taken_without_a_word(lab: Lab, clock: tuple[float, ...]) -> None:
    logged(lab, *clock)
    assert in_doubt(lab) == 0
    assert at(lab, 100).doubt == ""


@pytest.mark.parametrize("every", [30, 60, 7200])
def test_a_log_that_is_thinned_leaves_the_same_in_doubt(
    lab: Lab, tmp_path: Path, every: int
) -> None:
    logged(lab, 0, HOUR, 0)
    newest = in_doubt(lab)
    thin(lab, tmp_path, 0, every)
    assert in_doubt(lab) == newest
    assert at(lab, 30).doubt


def test_moments_that_share_a_time_as_the_clock_was_set_back_all_stay(
    lab: Lab, tmp_path: Path
) -> None:
    """Hours may lie between them: one moment of each minute would be one of all of them."""
    logged(lab, 0, HOUR, 0, 2 * HOUR)
    before = thinning.offered(lab)
    share = [each for each in before if [time for _, time in before].count(each[1]) > 1]
    assert len(share) > 5
    thin(lab, tmp_path, 0, 60)
    after = thinning.offered(lab)
    assert {write for write, _ in share[1:]} < {write for write, _ in after}
    assert len(after) < len(before), "of the others some went"
    for write, _ in after:
        assert state(lab, write) == truth(lab, write), write


@pytest.mark.parametrize("within", [0, 90, 300])
def test_thinning_casts_no_doubt(lab: Lab, tmp_path: Path, within: int) -> None:
    logged(lab, 0)
    thin(lab, tmp_path, within, 60)
    thin(lab, tmp_path, within // 2, 120)
    assert in_doubt(lab) == 0


def test_a_note_whose_writes_lie_on_both_sides_of_what_stays_casts_no_doubt(
    lab: Lab, tmp_path: Path
) -> None:
    """All came between two looks: some are thinned, those behind the last flush stay."""
    kept = keep(lab, lab.set.points[0], entries()[:-1], ended=ENDED, cause="machine")
    assert in_doubt(lab) == 0
    thin(lab, tmp_path, 0, 60)
    assert Index.read(kept.index).set_back == 0
