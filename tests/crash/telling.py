"""Tells a story under the record, and tries the states that a power cut can leave of it."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.backup.lab import Lab
from tests.crash.choices import draw
from tests.crash.damage import damaged_files
from tests.crash.folders import copy_tree, shared_files_kept
from tests.crash.record import Choice, Record
from tests.crash.recorder import Recorder
from tests.crash.remains import Figures, Remains, Wrong, ids_of
from tests.crash.states import States
from tests.crash.stories import Story
from vdbackup.backup import merge
from vdbackup.disks.disk import UNIT
from vdbackup.jobs import Task
from vdbackup.repository.repository import Repository

TRIES = 40
"""How often a new state is looked for before a story is taken to have no more."""
RETURNED = 8
"""One state in so many is of a thing that has returned, as far as there are such."""


class Telling:
    """A story that was recorded once, and the states that it can leave.

    Attributes:
        record: what happened.
        figures: what was tried.
    """

    def __init__(self, story: Story, folder: Path, disk_format: str, unit: int = UNIT) -> None:
        folder.mkdir()
        self.story, self._folder = story, folder
        storage = folder / "storage"
        storage.mkdir()
        self._lab = Lab(folder, story.size, storage / "repository", disk_format, unit)
        with shared_files_kept():
            story.prepare(self._lab)
        self._before = set(ids_of(self._lab.repository))
        self._overlays = dict(self._lab.overlays)
        self._kept = _damaged(self._lab) if story.kept else {}
        recorder = Recorder(storage, folder / "base", clones=story.clones)
        with recorder.recording():
            story.act(self._lab)
        self.record = recorder.record()
        self._after = set(ids_of(self._lab.repository))
        self._seed = f"{disk_format} {story.name}"
        self.figures = Figures()
        self._known: set[object] = set()  # what was read and is right

    def again(self, folder: Path, seed: int) -> Self | None:
        """The story of how one of its states is recovered, a merge's or a repair's.

        None where nothing is to be done.
        """
        rng = random.Random(f"{self._seed} again {seed}")
        other = copy.copy(self)
        other._folder, other._lab, other.figures = folder, copy.copy(self._lab), Figures()
        other._seed = f"{self._seed} {seed}"
        folder.mkdir()
        with States(self.record, folder / "cache") as states:
            choice = draw(states, rng.randint(0, len(self.record.changes)), rng)
            states.make(choice, folder / "shared")
        copy_tree(folder / "shared", folder / "storage")
        shutil.rmtree(folder / "shared")
        other._lab.repository = Repository(folder / "storage" / "repository", "")
        repository = other._lab.repository
        if not self.story.repairs and not any(each.journal for each in repository.sets()):
            return None
        recorder = Recorder(folder / "storage", folder / "base", clones=self.story.clones)
        with recorder.recording():
            if self.story.repairs:
                self.story.act(other._lab)
            else:
                merge.recover(repository, Task())
        other.record = recorder.record()
        return other

    def try_states(
        self,
        count: int,
        *,
        sampled: int = 0,
        record: Record | None = None,
        cuts: Sequence[int] | None = None,
        until_wrong: bool = False,
    ) -> list[str]:
        """Check that many states; what does not hold, a line each.

        Args:
            count: of states.
            sampled: every how many states other readers are asked, and another backup is made.
            record: another one than what happened (the same without a barrier).
            cuts: the places in the record to spread them over; all if None.
            until_wrong: whether to end with the first fault; half of the states are then of a thing
                that has returned, which is where most of them show.
        """
        faults: list[str] = []
        record = record or self.record
        cuts = cuts or range(len(record.changes) + 1)
        tried = set()
        self._known = set()
        with States(record, self._folder / "cache") as states:
            for number in range(count):
                rng = random.Random(f"{self._seed} {number}")
                first = _place(number, count, cuts, 2 if until_wrong else RETURNED)
                choice = self._new_choice(states, first, cuts, rng)
                if choice is None:
                    continue
                tried.add(choice.cut)
                self.figures.states += 1
                try:
                    self._check(states, choice, bool(sampled) and number % sampled == 0)
                except Wrong as error:
                    where = f"{self._seed}, state {number} at {choice.cut} of {len(record.changes)}"
                    faults.append(f"{where}: {error}")
                    if until_wrong:
                        break
        self.figures.cuts += len(tried)
        return faults

    def _new_choice(
        self, states: States, cut: int, cuts: Sequence[int], rng: random.Random
    ) -> Choice | None:
        """One that makes a new state, at that place in the record or at any other."""
        for _ in range(TRIES):
            choice = draw(states, cut, rng)
            if states.is_new(choice):
                return choice
            cut = rng.choice(cuts)
        return None

    def _check(self, states: States, choice: Choice, sample: bool) -> None:
        state = self._folder / "state"
        states.make(choice, state)
        try:
            with shared_files_kept():
                returned = choice.cut == len(states.record.changes)
                Remains(
                    self._lab, state / "repository", self._overlays, self.figures, self._known
                ).check(self.story, self._before, self._after, returned, sample, self._kept)
        finally:
            shutil.rmtree(state)


def _damaged(lab: Lab) -> dict[str, bytes]:
    """What the files hold that a repair finds damaged, and keeps."""
    names = damaged_files(lab.disk_format)
    return {name: (lab.set_folder / name).read_bytes() for name in names}


def _place(number: int, count: int, cuts: Sequence[int], returned: int) -> int:
    """Where to cut for a state: evenly over all places, and often where the thing has returned."""
    if number % returned == returned - 1:
        return cuts[-1]
    return cuts[number * len(cuts) // count if count < len(cuts) else number % len(cuts)]
