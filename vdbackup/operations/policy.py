"""A set's policy: changed without a backup, once it has been seen what that takes.

A change takes nothing itself. What goes does so after the set's next backup (backup/retention.py),
and after every one that follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from vdbackup.backup import proving, retention
from vdbackup.errors import ChangedMeanwhile, PointsUnknown, Remedy
from vdbackup.jobs import Plan, Task
from vdbackup.operations.changed import Changed
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import BootTests, Policy, RecoveryPoint
from vdbackup.repository.repository import Repository

ALL: Final = "all"
NEVER: Final = "never"


@dataclass(frozen=True)
class Change:
    """What is to be another way from now on; None leaves it as it is.

    Attributes:
        keep: how many of the newest points, or ALL.
        retarget: whether each new point is made ready to boot.
        boot_test: which new points are boot-tested.
        read_all_every: of how many backups of a tracked source one reads everything, or NEVER.
    """

    keep: int | Literal["all"] | None = None
    retarget: bool | None = None
    boot_test: BootTests | None = None
    read_all_every: int | Literal["never"] | None = None

    def of(self, policy: Policy) -> Policy:
        """The policy with this change; raises UsageError where not even one point is kept."""
        return Policy(
            keep=policy.keep if self.keep is None else None if self.keep == ALL else self.keep,
            retarget=policy.retarget if self.retarget is None else self.retarget,
            boot_test=policy.boot_test if self.boot_test is None else self.boot_test,
            read_all_every=self._read_all_every(policy.read_all_every),
        )

    def _read_all_every(self, now: int | None) -> int | None:
        if self.read_all_every is None:
            return now
        return None if self.read_all_every == NEVER else self.read_all_every


@dataclass(frozen=True, kw_only=True)
class PolicyPlan(Plan):
    """What a change of a set's policy would mean.

    Attributes:
        now: the policy as it is.
        wanted: as it would be.
        takes: the moments that go with the next backup because of the change, by sequence.
    """

    repository: Repository
    set_name: str
    change: Change
    now: Policy
    wanted: Policy
    takes: tuple[RecoveryPoint, ...]


@dataclass(frozen=True)
class PolicyResult:
    """What a set does from now on.

    Attributes:
        sentences: what has been changed, a sentence each.
        changed: what is to be read again.
    """

    set_name: str
    policy: Policy
    sentences: tuple[str, ...]
    changed: Changed


def plan(repository: Repository, set_name: str | None, change: Change) -> PolicyPlan:
    """What a change would mean; for the only set there is where none is named.

    Raises:
        UsageError: not even one point would be kept.
        PointNotFound: there is no such set, or there are several.
        BackupError: it cannot be told what it would take.
    """
    backup_set = repository.set(set_name)
    now = backup_set.settings.policy
    wanted = change.of(now)
    _check_told(backup_set, wanted)
    takes = taken(backup_set, wanted)
    summary = _changes(backup_set.name, now, wanted)
    if wanted.keep is not None and wanted.keep != now.keep:
        stay = "point stays" if wanted.keep == 1 else f"{wanted.keep:,} points stay"
        kept = (
            f"After each backup of {backup_set.name} its newest {stay}; older ones are merged or "
            f"deleted. {_next_backup(backup_set, takes)}"
        )
        summary = (kept, *summary[1:])
    return PolicyPlan(
        summary=" ".join(summary) or f"The policy of {backup_set.name} stays as it is.",
        invalidates=tuple(f"point {point.sequence}" for point in takes),
        repository=repository,
        set_name=backup_set.name,
        change=change,
        now=now,
        wanted=wanted,
        takes=takes,
    )


def run(plan: PolicyPlan, task: Task) -> PolicyResult:
    """Change the policy. What others have changed of it meanwhile stays.

    Raises BackupError where more would go by now than was shown, or that cannot be told.
    """
    repository, name = plan.repository, plan.set_name
    with repository.lock(f"changing the policy of {name}", task.cancel):
        backup_set = repository.set(name)
        now = backup_set.settings.policy
        wanted = plan.change.of(now)
        _check_told(backup_set, wanted)
        shown = {point.id for point in plan.takes}
        if any(point.id not in shown for point in taken(backup_set, wanted)):
            raise ChangedMeanwhile(
                f"{name} has changed meanwhile: more points would go than you were shown.",
                "Look at what it means now, and decide again.",
            )
        if wanted != now:
            repository.set_policy(name, wanted)
    return PolicyResult(name, wanted, _changes(name, now, wanted), Changed.only(name))


def taken(backup_set: BackupSet, wanted: Policy) -> tuple[RecoveryPoint, ...]:
    """The moments that go with the next backup because the set is to keep another number."""
    if wanted.keep == backup_set.settings.policy.keep:
        return ()
    return retention.preview(backup_set, wanted.keep)


def _check_told(backup_set: BackupSet, wanted: Policy) -> None:
    """Refuse to keep another number while points are unknown."""
    if why := retention.untold(backup_set, wanted):
        raise PointsUnknown(
            f"{why}.",
            "Have it rebuilt from the disks, or put back a good copy.",
            remedy=Remedy.REPAIR,
        )


def _next_backup(backup_set: BackupSet, takes: tuple[RecoveryPoint, ...]) -> str:
    if not takes:
        return f"The next backup takes none yet: there are {len(backup_set.points):,}."
    moments = "1 moment" if len(takes) == 1 else f"{len(takes):,} moments"
    return f"The next backup takes {moments}; until then all stay."


def _changes(name: str, now: Policy, wanted: Policy) -> tuple[str, ...]:
    """What is another way, a sentence each; how many points are kept comes first."""
    sentences = []
    if wanted.keep != now.keep:
        sentences.append(_kept(name, wanted.keep))
    if wanted.retarget != now.retarget:
        sentences.append(
            f"Each new point of {name} is made ready to boot."
            if wanted.retarget
            else f"New points of {name} are made ready to boot only when somebody asks for it."
        )
    if wanted.boot_test != now.boot_test:
        which = {BootTests.OFF: "No new point", BootTests.EACH: "Each new point"}
        sentences.append(f"{which[wanted.boot_test]} of {name} is boot-tested.")
    if wanted.read_all_every != now.read_all_every:
        every = wanted.read_all_every
        which_one = f"{proving.nth(every)} backup of {name}" if every else f"No backup of {name}"
        sentences.append(
            f"{which_one[0].upper()}{which_one[1:]} reads everything as a proof, where its changes "
            "are tracked."
        )
    return tuple(sentences)


def _kept(name: str, keep: int | None) -> str:
    if keep is None:
        return f"{name} keeps all its points."
    newest = "point alone" if keep == 1 else f"{keep:,} points"
    return f"{name} keeps its newest {newest}, from its next backup on."
