"""Tells a story under the record, and checks what must hold whatever a power cut leaves of it.

For each state:

1. As it is, every point that the thing does not concern reads right; what it concerns reads right
   or is refused.
2. After what opening a repository does (`merge.recover`), every point reads right, and there are
   the points of before, or those of afterwards: those of both in any case. If the thing had
   returned, there are those of afterwards, and nothing is left to finish.
3. After `repair` the same holds.
4. The next backup works, and readers that are not ours find in every point what it should hold (of
   a sample of states: this takes ten times as long).
"""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from tests.backup.lab import Lab
from tests.crash.choices import draw
from tests.crash.folders import copy_tree, shared_files_kept
from tests.crash.record import Choice, Record
from tests.crash.recorder import Recorder
from tests.crash.states import States
from tests.crash.stories import Story
from vdbackup.backup import capture, merge, repair
from vdbackup.disks.chain import Chain
from vdbackup.errors import VdbackupError
from vdbackup.jobs import CancelToken, silent
from vdbackup.repository.digests import Digests, digest_blocks
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import LAYER_MODE, MARKER, BackupSet, Repository
from vdbackup.sources.source import open_source

TRIES = 40
"""How often a new state is looked for before a story is taken to have no more."""
LAST_EIGHTH = 7
"""One state in eight is of a thing that has returned, as far as there are such."""


class Wrong(AssertionError):
    """A state in which something does not hold."""


@dataclass
class Figures:
    """What was tried."""

    states: int = 0
    cuts: int = 0
    points: int = 0  # that were found right, also for files that had been read before
    read: int = 0
    samples: int = 0

    def add(self, other: Figures) -> None:
        self.states += other.states
        self.cuts += other.cuts
        self.points += other.points
        self.read += other.read
        self.samples += other.samples

    def __str__(self) -> str:
        return (
            f"{self.states} states of {self.cuts} cuts, {self.points} points right, "
            f"{self.read} of them read anew, {self.samples} by other readers"
        )


class Telling:
    """A story that was recorded once, and the states that it can leave.

    Attributes:
        record: what happened.
        figures: what was tried.
    """

    def __init__(self, story: Story, folder: Path, disk_format: str) -> None:
        folder.mkdir()
        self.story, self._folder = story, folder
        storage = folder / "storage"
        storage.mkdir()
        self._lab = Lab(folder, story.size, storage / "repository", disk_format)
        with shared_files_kept():
            story.prepare(self._lab)
        self._before = set(_ids(self._lab.repository))
        recorder = Recorder(storage, folder / "base")
        with recorder.recording():
            story.act(self._lab)
        self.record = recorder.record()
        self._after = set(_ids(self._lab.repository))
        self._seed = f"{disk_format} {story.name}"
        self.figures = Figures()
        self._known: set[object] = set()  # what was read and is right

    def again(self, folder: Path, seed: int) -> Telling | None:
        """The story of how one of its states is recovered; None where nothing is to be done."""
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
        if not any(each.journal for each in other._lab.repository.sets()):
            return None
        recorder = Recorder(folder / "storage", folder / "base")
        with recorder.recording():
            merge.recover(other._lab.repository, silent, CancelToken())
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
            until_wrong: whether to end with the first fault.
        """
        faults: list[str] = []
        record = record or self.record
        cuts = cuts or range(len(record.changes) + 1)
        tried = set()
        self._known = set()
        with States(record, self._folder / "cache") as states:
            for number in range(count):
                rng = random.Random(f"{self._seed} {number}")
                first = _place(number, count, cuts)
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
                _State(self._lab, state / "repository", self.figures, self._known).check(
                    self.story, self._before, self._after, returned, sample
                )
        finally:
            shutil.rmtree(state)


class _State:
    """A repository as the power cut left it."""

    def __init__(self, lab: Lab, path: Path, figures: Figures, known: set[object]) -> None:
        self._lab = copy.copy(lab)
        self._lab.moments = dict(lab.moments)
        self._lab.repository = Repository(path, "")
        self._figures = figures
        self._known = known

    def check(
        self, story: Story, before: set[str], after: set[str], returned: bool, sample: bool
    ) -> None:
        """All that the module's docstring says; raises Wrong."""
        repository = self._lab.repository
        step = "as it is"
        try:
            self._check_points(story.concerned)
            step = "recovered"
            is_there = (repository.path / MARKER).exists()
            said = merge.recover(repository, silent, CancelToken()) if is_there else []
            if any("could not be finished" in sentence for sentence in said):
                raise Wrong(said[-1])
            self._check_points()
            self._check_ids(before, after, returned)
            if sample:
                step = "read by others"
                self._ask_others()
            step = "repaired"
            if is_there:
                repair.run(repository.path, silent, CancelToken())
            self._check_points()
            self._check_ids(before, after, returned)
            if sample:
                step = "backed up"
                self._back_up()
        except (VdbackupError, OSError, ValueError) as error:
            raise Wrong(f"{step}: {type(error).__name__}: {error}") from error
        except AssertionError as error:
            raise Wrong(f"{step}: {error}") from error

    def _check_ids(self, before: set[str], after: set[str], returned: bool) -> None:
        found = _ids(self._lab.repository)
        if len(set(found)) < len(found):
            raise Wrong("a point is there twice")
        ids = set(found)
        if any(each.journal for each in _sets(self._lab.repository)):
            raise Wrong("a journal is left")
        if returned and not after <= ids:
            raise Wrong("it had returned, and is not done")
        if returned and ids != after:
            raise Wrong("it had returned, and what was to go is there")
        if not before & after <= ids <= before | after:
            raise Wrong(f"lost {len((before & after) - ids)}, unknown {len(ids - before - after)}")

    def _check_points(self, concerned: frozenset[int] = frozenset()) -> None:
        for backup_set in _sets(self._lab.repository):
            for point in backup_set.points:
                self._figures.points += 1
                try:
                    self._check_point(backup_set, point, point.sequence not in concerned)
                except VdbackupError:
                    if point.sequence not in concerned:
                        raise

    def _check_point(self, backup_set: BackupSet, point: RecoveryPoint, whole: bool) -> None:
        """It and its digests are right; with `whole` its overlay, too, and its mode.

        The files of most points are the same in most states, and need not be read in each.
        """
        chain = backup_set.chain(point)
        names = [name for each in chain for name in (each.disk, each.digests)]
        files = [_identity(backup_set.folder / name) for name in (*names, point.overlay)]
        key = repr((backup_set.name, chain, files, whole))
        if key not in self._known:
            self._read_point(backup_set, point, whole)
            self._figures.read += 1
            self._known.add(key)

    def _read_point(self, backup_set: BackupSet, point: RecoveryPoint, whole: bool) -> None:
        wanted, digests = _moment(self._lab.moments[point.id])
        with ExitStack() as stack:
            chains = [stack.enter_context(backup_set.open_chain(point))]
            overlay = backup_set.overlay_path(point)
            if whole and overlay.exists():
                chains.append(stack.enter_context(Chain.open(overlay, backup_set.settings.format)))
            for chain in chains:
                data = bytearray(point.virtual_size)
                chain.readinto(0, memoryview(data))
                assert data == wanted, f"point {point.sequence} reads wrong"
        with backup_set.open_digests(point) as found:
            same = np.array_equal(found.expected(0, len(digests)), digests)
            assert same, f"the digests of point {point.sequence} are wrong"
        if whole:
            mode = backup_set.disk_path(point).stat().st_mode & 0o777
            assert mode == LAYER_MODE, f"the layer of point {point.sequence} has mode {mode:o}"

    def _ask_others(self) -> None:
        from tests.oracles import readers

        for backup_set in _sets(self._lab.repository):
            for point in backup_set.points:
                self._figures.samples += 1
                raw, disk = self._lab.moments[point.id], backup_set.disk_path(point)
                readers.assert_library_reads(disk, raw, backup_set.settings.format)

    def _back_up(self) -> None:
        """What the user does next; and nothing is left of what was cut off."""
        lab = self._lab
        lab.repository = Repository.open_or_create(lab.repository.path)
        with open_source(lab.image) as source:
            plan = capture.plan(
                lab.repository, source, set_name="disk", disk_format=lab.disk_format
            )
            point = capture.run(plan, silent, CancelToken()).point
        lab.moments[point.id] = lab.image
        self._check_points()
        assert not point.warnings, point.warnings
        self._drop_strays()
        lab.check_files()

    def _drop_strays(self) -> None:
        """Digests and overlays whose layer is gone may stay where names are lost in any order."""
        numbers = {point.sequence for point in self._lab.set.points}
        for path in self._lab.set_folder.iterdir():
            number, _, rest = path.name.partition("-")
            stray = rest.endswith(".digests") or rest.startswith("overlay.")
            if stray and int(number) not in numbers:
                path.unlink()


def _place(number: int, count: int, cuts: Sequence[int]) -> int:
    """Where to cut for a state: evenly over all places, and often where the thing has returned."""
    if number % 8 == LAST_EIGHTH:
        return cuts[-1]
    return cuts[number * len(cuts) // count if count < len(cuts) else number % len(cuts)]


def _sets(repository: Repository) -> list[BackupSet]:
    return repository.sets() if repository.path.exists() else []


def _ids(repository: Repository) -> list[str]:
    return [point.id for each in _sets(repository) for point in each.points]


def _identity(path: Path) -> object:
    """The same for two files only if they are the same: one that states share never changes."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_nlink > 1 or (status.st_ctime_ns, status.st_size)


@lru_cache(64)
def _moment(raw: Path) -> tuple[bytes, Digests]:
    data = raw.read_bytes()
    return data, digest_blocks(memoryview(data))
