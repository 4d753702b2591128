"""Convert: the points of a set again in another format, as a new set that goes on."""

from __future__ import annotations

from dataclasses import dataclass

from vdbackup.backup import convert
from vdbackup.backup.convert import ConvertPlan, plan
from vdbackup.jobs import Task
from vdbackup.operations.changed import ANY, Changed
from vdbackup.repository.backup_set import BackupSet

__all__ = ["ConvertPlan", "ConvertResult", "plan", "run"]


@dataclass(frozen=True)
class ConvertResult:
    """The new set, and what is to be read again."""

    backup_set: BackupSet
    changed: Changed


def run(plan: ConvertPlan, task: Task) -> ConvertResult:
    """Do what was planned; raises what `backup.convert.run` does."""
    return ConvertResult(convert.run(plan, task), ANY)
