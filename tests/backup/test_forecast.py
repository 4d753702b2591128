"""What is foretold of a policy is what the next backup then does, whatever the set looks like."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.backup.lab import Lab
from tests.noise import noise
from vdbackup.backup import whole_chains
from vdbackup.backup.forecast import Outcome, Outlook
from vdbackup.jobs import Task
from vdbackup.operations import pins
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import Check, Promotion
from vdbackup.repository.policy import Policy

NUMBERS = st.one_of(st.none(), st.integers(1, 4))
POLICIES = st.builds(
    Policy,
    keep=NUMBERS,
    keep_within=st.one_of(st.none(), st.integers(1, 72)),
    daily=NUMBERS,
    weekly=NUMBERS,
    monthly=st.one_of(st.none(), st.just(1)),
    at_most=NUMBERS,
)
KINDS = st.lists(
    st.sampled_from(["incremental", "incremental", "differential", "full"]),
    min_size=2,
    max_size=7,
)
SOME = st.sets(st.integers(0, 6), max_size=2)


class Story:
    """A set whose points are some hours apart, some pinned, promoted or found damaged."""

    def __init__(self, folder: Path, kinds: list[str], gaps: list[int]) -> None:
        self.lab = Lab(folder, size=8 * BLOCK)
        now = datetime.now(UTC)
        for number, kind in enumerate(kinds):
            self.lab.poke(number * BLOCK, noise(BLOCK, number))
            point = self.lab.backup(kind if number else "full")
            age = timedelta(hours=sum(gaps[number:]), minutes=1)
            self.save(replace(point, created=(now - age).isoformat()))

    def save(self, point: object) -> None:
        self.lab.repository.save_point("disk", point)  # type: ignore[arg-type]

    def mark(self, pinned: set[int], promoted: set[int], damaged: set[int]) -> None:
        points = self.lab.set.points
        for index in pinned & set(range(len(points))):
            plan = pins.plan(self.lab.repository, "disk", points[index].id, "")
            pins.run(plan, Task())
        made = Promotion("20261128-120000-abcdef", "a machine", points[0].created)
        for index in promoted & set(range(1, len(points))):
            self.save(replace(points[index], promoted_from=made))
        for index in damaged & set(range(len(points))) - promoted:
            self.save(replace(points[index], verified=Check(points[0].created, ok=False)))


def damaged_in(lab: Lab) -> dict[str, str]:
    return whole_chains.damaged(lab.set, whole_chains.Chains())


@settings(
    max_examples=max(6, settings.default.max_examples // 16),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each makes real backups: none is shrunk
)
@given(
    KINDS, st.lists(st.integers(1, 60), min_size=7, max_size=7), POLICIES, SOME, SOME, SOME
)  # fmt: skip
def test_what_is_foretold_is_what_the_next_backup_does(
    kinds: list[str],
    gaps: list[int],
    policy: Policy,
    pinned: set[int],
    promoted: set[int],
    damaged: set[int],
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="vdbackup-forecast-"))
    try:
        story = Story(folder, kinds, gaps[: len(kinds)])
        story.mark(pinned, promoted, damaged)
        lab = story.lab
        before = [point.sequence for point in lab.set.points]
        fates = Outlook(lab.set).fates(policy, datetime.now(UTC))
        assert [fate.point.sequence for fate in fates] == before
        newest = lab.set.latest_captured()
        newest_is_whole = newest is None or newest.id not in damaged_in(lab)
        goes = {fate.point.sequence for fate in fates if fate.outcome is Outcome.GOES}
        with lab.repository.lock("a test"):
            lab.repository.set_policy("disk", policy)
        lab.backup()
        there = {point.sequence for point in lab.set.points}
        gone = set(before) - there
        if newest_is_whole:
            assert gone == goes
        else:  # nor is what goes on from it, and what does not count takes no other's place
            assert gone <= goes
        assert not goes & {number + 1 for number in pinned | promoted - {0}}
        lab.check_without_processes()
    finally:
        shutil.rmtree(folder)
