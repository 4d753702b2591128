"""A repository after an interruption, and what must hold of it whatever was interrupted.

For each state:

1. As it is, every point that the thing does not concern reads right; what it concerns reads right
   or is refused. An overlay is the one of before or the one of afterwards, and its report is
   believed only beside it.
2. After what opening a repository does (`merge.recover`), every point reads right, and there are
   the points of before, or those of afterwards: those of both in any case. No layer is left that
   only a repair would make a point of. If the thing had returned, there are the points of
   afterwards, and nothing was left to finish or to remove.
3. After `repair` the same holds. Where a repair itself was cut off, the points that it concerns may
   be refused until it has been done again; then there are those of afterwards. What was damaged is
   in its place or aside, at each step.
4. The next backup works, and readers that are not ours find in every point what it should hold (of
   a sample of states: this takes ten times as long).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from tests.backup.lab import Lab
from tests.crash.stories import Story
from tests.sources.opened import open_path
from vdbackup.backup import capture, merge, repair
from vdbackup.backup.quarantine import QUARANTINE
from vdbackup.disks.chain import Chain
from vdbackup.errors import VdbackupError
from vdbackup.jobs import Task
from vdbackup.recovery.retarget import report
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.digests import Digests, digest_blocks
from vdbackup.repository.files import PARTIAL
from vdbackup.repository.lease import LEASE_NAME
from vdbackup.repository.marker import MARKER
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import LAYER_MODE, Repository, settings_copy


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


class Remains:
    """A repository as the power cut left it."""

    def __init__(
        self,
        lab: Lab,
        path: Path,
        overlays: Mapping[str, Path],
        figures: Figures,
        known: set[object],
    ) -> None:
        """`overlays` are what they were before, as in the lab they are afterwards."""
        self._lab = copy.copy(lab)
        self._lab.moments = dict(lab.moments)
        self._lab.overlays = dict(lab.overlays)
        self._lab.repository = Repository(path, "")
        self._overlays = overlays
        self._returned = False
        self._figures = figures
        self._known = known

    def check(
        self,
        story: Story,
        before: set[str],
        after: set[str],
        returned: bool,
        sample: bool,
        kept: Mapping[str, bytes],
    ) -> None:
        """All that the module's docstring says; raises Wrong."""
        repository = self._lab.repository
        self._returned = returned
        step = "as it is"
        unrepaired = story.concerned if story.repairs and not returned else frozenset[int]()
        try:
            self.check_points(story.concerned)
            self.check_kept(kept)
            self.check_copies()
            if returned:
                self.check_finished()
            step = "recovered"
            is_there = (repository.path / MARKER).exists()
            recovered = merge.recover(repository, Task()) if is_there else merge.Recovered()
            if not unrepaired and recovered.undone:
                raise Wrong(str(recovered.undone[-1]))
            self.check_points(unrepaired)
            if not unrepaired:
                self.check_ids(before, after, returned)
                self.check_listed()
            if sample and not unrepaired:
                step = "read by others"
                self.ask_others()
            step = "repaired"
            if is_there:
                repair.run(repository.path, Task())
            self.check_points()
            self.check_ids(before, after, returned or story.repairs)
            self.check_kept(kept)
            if sample and story.repairs:
                step = "read by others"
                self.ask_others()
            elif sample:
                step = "backed up"
                self._back_up()
        except (VdbackupError, OSError, ValueError) as error:
            raise Wrong(f"{step}: {type(error).__name__}: {error}") from error
        except AssertionError as error:
            raise Wrong(f"{step}: {error}") from error

    def check_finished(self) -> None:
        """Nothing is left that somebody else would have to finish or to remove.

        But for a lease that was renamed to be removed: its names need not be durable (lease.py),
        and nobody minds it.
        """
        found = self._lab.repository.path.glob("**/*" + PARTIAL)
        left = [path for path in found if not path.name.startswith(LEASE_NAME)]
        if any(each.journal for each in sets_of(self._lab.repository)):
            raise Wrong("it had returned, and a journal is left")
        if left:
            raise Wrong(f"it had returned, and left {left[0].name}")

    def check_copies(self) -> None:
        """A copy of `set.json` that is there keeps what the set is to keep."""
        for backup_set in sets_of(self._lab.repository):
            copy = settings_copy(backup_set.folder)
            said = backup_set.settings
            if copy and (copy.policy, copy.pins) != (said.policy, said.pins):
                raise Wrong("by the copy of set.json points go that are to stay")

    def check_listed(self) -> None:
        """Each layer is a point's."""
        for backup_set in sets_of(self._lab.repository):
            if names := backup_set.unlisted_layers():
                raise Wrong(f"{names[0]} is no point's, and waits for a repair")

    def check_kept(self, kept: Mapping[str, bytes]) -> None:
        """The files are in their place, or aside under whatever number."""
        for name, data in kept.items():
            found = self._lab.repository.path.glob(f"disk/**/{name}*")
            if not any(path.read_bytes() == data for path in found):
                raise Wrong(f"what {name} held is lost")

    def check_ids(self, before: set[str], after: set[str], returned: bool) -> None:
        found = ids_of(self._lab.repository)
        if len(set(found)) < len(found):
            raise Wrong("a point is there twice")
        ids = set(found)
        if any(each.journal for each in sets_of(self._lab.repository)):
            raise Wrong("a journal is left")
        if returned and not after <= ids:
            raise Wrong("it had returned, and is not done")
        if returned and ids != after:
            raise Wrong("it had returned, and what was to go is there")
        if not before & after <= ids <= before | after:
            raise Wrong(f"lost {len((before & after) - ids)}, unknown {len(ids - before - after)}")

    def check_points(self, concerned: frozenset[int] = frozenset()) -> None:
        for backup_set in sets_of(self._lab.repository):
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
        names += point.overlay, point.report
        files = [_identity(backup_set.folder / name) for name in names]
        key = repr((backup_set.name, chain, files, whole, self._returned))
        if key not in self._known:
            self._read_point(backup_set, point, whole)
            self._figures.read += 1
            self._known.add(key)

    def _read_point(self, backup_set: BackupSet, point: RecoveryPoint, whole: bool) -> None:
        wanted = _moment(self._lab.moments[point.id])
        with backup_set.open_chain(point) as chain:
            assert _contents(chain) == wanted, f"point {point.sequence} reads wrong"
        with backup_set.open_digests(point) as found:
            digests = _digests(wanted, found.block)
            same = np.array_equal(found.expected(np.arange(len(digests))), digests)
            assert same, f"the digests of point {point.sequence} are wrong"
        if whole:
            self._check_overlay(backup_set, point)
            mode = backup_set.disk_path(point).stat().st_mode & 0o777
            assert mode == LAYER_MODE, f"the layer of point {point.sequence} has mode {mode:o}"

    def _check_overlay(self, backup_set: BackupSet, point: RecoveryPoint) -> None:
        """An empty one may be missing: it is made anew."""
        empty = self._lab.moments[point.id]
        found = self._overlay(backup_set, point)
        said = report.load(backup_set, point)
        assert found or self._may_be(point) == {empty}, f"overlay {point.sequence} is lost"
        # the stories' reports name their overlay; the real program's has nothing to note
        believed = said is None or said.notes in ((), (str(found),))
        assert believed, "a report is believed beside another disk"
        if self._returned and found not in (None, empty):
            assert said, f"it had returned, and nothing is said of overlay {point.sequence}"

    def _overlay(self, backup_set: BackupSet, point: RecoveryPoint) -> Path | None:
        """As which of those that it may be the point's overlay reads; None where it is missing."""
        path = backup_set.overlay_path(point)
        if not path.exists():
            return None
        with Chain.open(path, backup_set.settings.format) as chain:
            data = _contents(chain)
        found = [raw for raw in self._may_be(point) if _moment(raw) == data]
        assert found, f"overlay {point.sequence} reads wrong"
        return found[0]

    def _may_be(self, point: RecoveryPoint) -> set[Path]:
        """What the point's overlay may read as."""
        empty = self._lab.moments[point.id]
        now = self._lab.overlays.get(point.id, empty)
        return {now} if self._returned else {now, self._overlays.get(point.id, empty)}

    def ask_others(self) -> None:
        from tests.oracles import readers

        for backup_set in sets_of(self._lab.repository):
            for point in backup_set.points:
                self._figures.samples += 1
                raw, disk = self._lab.moments[point.id], backup_set.disk_path(point)
                readers.assert_library_reads(disk, raw, backup_set.settings.format)
                if found := self._overlay(backup_set, point):
                    overlay = backup_set.overlay_path(point)
                    readers.assert_library_reads(overlay, found, backup_set.settings.format)

    def _back_up(self) -> None:
        """What the user does next; and nothing is left of what was cut off."""
        lab = self._lab
        lab.repository = Repository.open_or_create(lab.repository.path)
        with open_path(lab.image) as source:
            plan = capture.plan(
                lab.repository, source, set_name="disk", disk_format=lab.disk_format
            )
            point = capture.run(plan, Task()).point
        lab.moments[point.id] = lab.image
        self.check_points()
        assert not point.warnings, point.warnings
        self._drop_strays()
        lab.check_files()

    def _drop_strays(self) -> None:
        """Digests and overlays whose layer is gone may stay where names are lost in any order.

        And a report on an overlay that has gone since is put aside.
        """
        aside = self._lab.set_folder / QUARANTINE
        for path in aside.glob("*.retarget.json"):
            path.unlink()
            aside.rmdir()
        numbers = {point.sequence for point in self._lab.set.points}
        for path in self._lab.set_folder.iterdir():
            number, _, rest = path.name.partition("-")
            stray = rest.endswith(".digests") or rest.startswith("overlay.")
            if stray and int(number) not in numbers:
                path.unlink()


def _contents(chain: Chain) -> bytearray:
    data = bytearray(chain.size)
    chain.readinto(0, memoryview(data))
    return data


def sets_of(repository: Repository) -> list[BackupSet]:
    return repository.sets() if repository.path.exists() else []


def ids_of(repository: Repository) -> list[str]:
    return [point.id for each in sets_of(repository) for point in each.points]


def _identity(path: Path) -> object:
    """The same for two files only if they are the same: one that states share never changes."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_nlink > 1 or (status.st_ctime_ns, status.st_size)


@lru_cache(64)
def _moment(raw: Path) -> bytes:
    return raw.read_bytes()


@lru_cache(64)
def _digests(data: bytes, block: int) -> Digests:
    return digest_blocks(memoryview(data), block)
