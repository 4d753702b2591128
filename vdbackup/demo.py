"""The whole story on a small bootable disk made on the spot: what `vdbackup demo` proves."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup import capture, merge
from vdbackup.errors import Damaged, NotReached, Remedy
from vdbackup.jobs import CancelToken, Task, readable_size
from vdbackup.operations import restore
from vdbackup.recovery import verify
from vdbackup.recovery.browse import FileBrowser
from vdbackup.recovery.sessions.vm import start_session
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk
from vdbackup.sources.opening import open_source
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr

_MESSAGES = (
    "I am the disk as it was on Monday.",
    "I am the disk as it was on Tuesday.",
    "I am the disk as it was on Wednesday.",
)
_BOOT_LIMIT = 120.0
"""Seconds; without KVM the machine is translated, which takes a few seconds."""


@dataclass(frozen=True)
class Proof:
    """Something that was shown: the claim, what proves it, and the seconds that it took."""

    claim: str
    evidence: str
    seconds: float


class Demo:
    """Tells the story once, in a folder.

    Attributes:
        repository: the folder of the backups that are made.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        """Prepare the story.

        Args:
            folder: for the disk, its backups and the sessions; made if it is not there.
            tell: called with a sentence before each step.
        """
        self.repository = folder / "backups"
        self._folder = folder
        self._disk = folder / "demo.img"
        self._tell = tell
        self._proofs: list[Proof] = []
        self._states: dict[str, str] = {}  # point id -> SHA-256 of the disk at that moment
        self._messages: dict[str, str] = {}  # point id -> what it must print

    def run(self, cancel: CancelToken) -> list[Proof]:
        """Make, back up, change, merge, boot, restore; raises what goes wrong."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for day, message in enumerate(_MESSAGES):
            self._new_day(day, message)
            self._back_up(message, cancel)
        self._merge(cancel)
        backup_set = self._set()
        for point in backup_set.points:
            self._boot(backup_set, point, cancel)
        for point in backup_set.points:
            self._restore(backup_set, point, cancel)
        self._look_inside(backup_set)
        self._verify(cancel)
        return self._proofs

    def _set(self) -> BackupSet:
        return Repository.open(self.repository).set()

    @contextmanager
    def _step(self, sentence: str, claim: str) -> Iterator[list[str]]:
        """Tell the sentence; then record the claim with the evidence that the block collects."""
        self._tell(sentence)
        started = time.monotonic()
        evidence: list[str] = []
        yield evidence
        self._proofs.append(Proof(claim, ", ".join(evidence), time.monotonic() - started))

    def _new_day(self, day: int, message: str) -> None:
        if day == 0:
            self._tell(
                tr("Making a bootable disk of 16 MiB that prints: {message}", message=message)
            )
            demo_disk.create(self._disk, message)
        else:
            self._tell(tr("Changing the disk; now it prints: {message}", message=message))
            demo_disk.change(self._disk, message, {"DIARY.TXT": f"{message}\r\n".encode()})

    def _back_up(self, message: str, cancel: CancelToken) -> None:
        with self._step(tr("Backing it up."), tr("Backed up as a bootable VMDK")) as evidence:
            repository = Repository.open_or_create(self.repository)
            with open_source(SourceRef.of_path(self._disk)) as source:
                plan = capture.plan(repository, source)
                point = capture.run(plan, Task(cancel=cancel)).point
            evidence.append(
                tr(
                    "point {point}, {type}, {size}",
                    point=point.sequence,
                    type=tr(point.type),
                    size=readable_size(point.stored_bytes),
                )
            )
        self._states[point.id] = _sha256(self._disk)
        self._messages[point.id] = message

    def _merge(self, cancel: CancelToken) -> None:
        backup_set = self._set()
        child = backup_set.points[1]
        sentence = tr(
            "Rolling point {child} into point {point}.",
            child=child.sequence,
            point=backup_set.points[0].sequence,
        )
        with self._step(sentence, tr("Merged into a synthetic full")) as evidence:
            plan = merge.plan(Repository.open(self.repository), backup_set.name, child.id)
            point = merge.run(plan, Task(cancel=cancel)).point
            evidence.append(
                tr("point {point} is now a {type}", point=point.sequence, type=tr(point.type))
            )

    def _boot(self, backup_set: BackupSet, point: RecoveryPoint, cancel: CancelToken) -> None:
        message = self._messages[point.id]
        sentence = tr("Booting point {point} in a virtual machine.", point=point.sequence)
        with self._step(
            sentence, tr("Point {point} boots and prints its message", point=point.sequence)
        ) as evidence:
            files = [backup_set.disk_path(each) for each in backup_set.chain(point)]
            files.append(backup_set.overlay_path(point))
            before = [_sha256(file) for file in files]
            with start_session(
                backup_set.overlay_path(point),
                sessions_folder=self._folder / "sessions",
                title=f"{backup_set.name} #{point.sequence}",
                sector_size=point.sector_size,
                disk_format=backup_set.settings.format,
            ) as session:
                if not session.wait_for_text(message, timeout=_BOOT_LIMIT, cancel=cancel):
                    raise NotReached(
                        tr("Point {point} did not print its message.", point=point.sequence)
                    )
                evidence.append(f'"{message}" ({session.accelerator})')
            if before != [_sha256(file) for file in files]:
                raise Damaged(
                    tr("Booting point {point} has altered the backup.", point=point.sequence)
                )
            evidence.append(tr("backup unchanged"))

    def _restore(self, backup_set: BackupSet, point: RecoveryPoint, cancel: CancelToken) -> None:
        target = self._folder / f"restored-{point.sequence}.img"
        sentence = tr("Restoring point {point} to a raw disk.", point=point.sequence)
        with self._step(
            sentence, tr("Point {point} restored is the disk it was", point=point.sequence)
        ) as evidence:
            repository = Repository.open(self.repository)
            plan = restore.plan(
                restore.RestoreRequest(repository, backup_set.name, point.id, target)
            )
            restore.run(plan, Task(cancel=cancel))
            if _sha256(target) != self._states[point.id]:
                raise Damaged(tr("Point {point} was not restored as it was.", point=point.sequence))
            evidence.append(tr("SHA-256 {state}… is the same", state=self._states[point.id][:12]))

    def _look_inside(self, backup_set: BackupSet) -> None:
        point = backup_set.points[-1]
        with (
            self._step(
                tr("Listing the files inside."), tr("Single files can be reached")
            ) as evidence,
            backup_set.open_chain(point) as chain,
        ):
            names = [entry.name for entry in FileBrowser(chain).listing("/p1")]
            evidence.append(", ".join(names))

    def _verify(self, cancel: CancelToken) -> None:
        with self._step(tr("Verifying all points."), tr("All points are as captured")) as evidence:
            plan = verify.plan(Repository.open(self.repository), self._set().name)
            verdicts = verify.run(plan, Task(cancel=cancel))
            if not all(verdict.ok for verdict in verdicts):
                raise Damaged(
                    tr("A point is damaged."),
                    tr("Its storage may be failing."),
                    remedy=Remedy.VERIFY,
                )
            evidence.append(tr("{count} points, every block's digest", count=len(verdicts)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
