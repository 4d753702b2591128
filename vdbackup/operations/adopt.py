"""Adopt: a chain of disks that another program made becomes a set of recovery points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vdbackup.backup import adopt as adopting
from vdbackup.backup.adopt import AdoptPlan
from vdbackup.jobs import Task
from vdbackup.operations.changed import ANY, Changed
from vdbackup.operations.placement import repository_for
from vdbackup.repository.backup_set import BackupSet
from vdbackup.sources.opening import Hints, open_file
from vdbackup.sources.reference import SourceRef

__all__ = ["AdoptPlan", "AdoptRequest", "AdoptResult", "adopt", "plan", "planned", "run"]


@dataclass(frozen=True)
class AdoptRequest:
    """What is asked for.

    Attributes:
        tip: the newest disk of the chain.
        repository: the folder that holds the backups.
        set_name: of the new set; by the tip's name if None.
        disk_format: of the new set; the tip's own if None.
        source_format: what the user says that the tip is, "raw" or a format.
        parents_in: folders besides its own in which its parents may lie.
    """

    tip: SourceRef
    repository: Path
    set_name: str | None = None
    disk_format: str | None = None
    source_format: str | None = None
    parents_in: tuple[Path, ...] = ()


@dataclass(frozen=True)
class AdoptResult:
    """The new set, and what is to be read again.

    Attributes:
        warnings: what is in the chain's files and in no point, a sentence each.
    """

    backup_set: BackupSet
    changed: Changed
    warnings: tuple[str, ...] = ()


@contextmanager
def planned(request: AdoptRequest) -> Iterator[AdoptPlan]:
    """What would be done; the chain is open meanwhile, for `run`. Makes the repository.

    Raises:
        SourceError, DiskError: the chain cannot be read; UnclearFormat where only the user knows
            what it is.
        BackupError, RepositoryError: it cannot be adopted there, and why.
    """
    with open_file(request.tip, Hints(request.parents_in, request.source_format)) as source:
        repository = repository_for(source, request.repository)
        yield adopting.plan(
            repository, source, set_name=request.set_name, disk_format=request.disk_format
        )


def plan(request: AdoptRequest) -> AdoptPlan:
    """The same, to be shown: the chain is closed."""
    with planned(request) as plan:
        return plan


def run(plan: AdoptPlan, task: Task) -> AdoptResult:
    """Do what was planned; raises what `backup.adopt.run` does."""
    return AdoptResult(adopting.run(plan, task), ANY, plan.source.unread)


def adopt(request: AdoptRequest, task: Task) -> AdoptResult:
    """Plan anew and run: what was shown may be out of date."""
    with planned(request) as plan:
        return run(plan, task)
