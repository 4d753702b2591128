"""Set a schedule, show it, remove it: what is written is shown before, as text."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.errors import SourceNotPermitted, UsageError
from vdbackup.jobs import Plan, Task
from vdbackup.operations.schedules import systemd
from vdbackup.operations.schedules.store import Schedule, Store, schedule_id
from vdbackup.operations.schedules.timing import PLUG
from vdbackup.operations.schedules.units import (
    BACKUP,
    MERGE,
    Units,
    crontab_line,
    name_of,
    units,
)
from vdbackup.repository.repository import Repository
from vdbackup.sources.devices import can_be_asked_for
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr, trn

VARIABLES = ("VDBACKUP_CONFIG_DIR", "VDBACKUP_DATA_DIR", "VDBACKUP_LOG_DIR")
"""By which the folders of the program are named, where they are not the usual ones."""
PROGRAM = (sys.executable, "-m", "vdbackup")
"""How this program is started again."""


@dataclass(frozen=True, kw_only=True)
class SchedulePlan(Plan):
    """What setting a schedule would write.

    Attributes:
        texts: path of each unit to its text; none where systemd does not run.
        cron: lines for crontab(1) that do the same; "" where cron cannot.
        by_systemd: whether systemd runs here, and will start it.
        lingers: whether this user's systemd is to run from then on whoever is logged in.
        warning: what speaks against it, a sentence; "" where nothing does.
    """

    store: Store
    schedule: Schedule
    units: Units
    texts: dict[str, str]
    cron: str
    by_systemd: bool
    lingers: bool = False
    warning: str = ""


@dataclass(frozen=True)
class ScheduleResult:
    """What was arranged.

    Attributes:
        schedule: as it is now.
        cron: what is to be added to a crontab by hand, where systemd does not run; else "".
        trouble: why systemd did not take it; "" where it did.
    """

    schedule: Schedule
    cron: str = ""
    trouble: str = ""


def plan(store: Store, wanted: Schedule) -> SchedulePlan:
    """What setting it would write.

    Raises:
        UsageError: it makes no sense.
        PointNotFound, RepositoryError: there is no such set.
        SourceNotPermitted: this user may not read what is to be backed up.
    """
    backup_set = Repository.open(wanted.repository).set(wanted.set_name)
    source = SourceRef.parse(backup_set.settings.source.path)
    read_by = _read_by(source)
    if wanted.merging is not None and wanted.every == PLUG:
        raise UsageError(
            tr("Nobody knows whether the drive is plugged in at {at}.", at=wanted.merge_at),
            tr("Let older points be merged after each backup: then it is there."),
        )
    mount_point = mount_point_of(wanted.repository) if wanted.every == PLUG else ""
    found = planned(store, replace(wanted, mount_point=mount_point))
    return replace(found, summary=found.summary + read_by)


def planned(store: Store, wanted: Schedule) -> SchedulePlan:
    """The same of a schedule that there is: its drive need not be plugged in."""
    made = units(wanted, _command(wanted), _command(wanted, MERGE))
    paths = {name: systemd.folder() / name for name in made.texts}
    by_systemd = systemd.runs()
    # of a login, or of a drive that a desktop mounts, there is nothing to be seen without one
    lingers = by_systemd and os.geteuid() != 0 and wanted.timing.interval is not None
    always = tr(", whether you are logged in or not") if lingers else ""
    return SchedulePlan(
        summary=tr(
            "{set_name} is backed up {words}, automatically{always}.",
            set_name=wanted.set_name,
            words=wanted.timing.words,
            always=always,
        )
        + _verifying(wanted.verify)
        + _merging(wanted)
        + _waiting(wanted),
        creates=tuple(str(path) for path in paths.values() if not path.exists()),
        replaces=tuple(str(path) for path in paths.values() if path.exists()),
        store=store,
        schedule=wanted,
        units=made,
        texts={str(path): made.texts[name] for name, path in paths.items()},
        cron=crontab_line(wanted, _command(wanted), _command(wanted, MERGE)),
        by_systemd=by_systemd,
        lingers=lingers,
        warning=_others_may_change() if os.geteuid() == 0 else "",
    )


def _verifying(count: int) -> str:
    if not count:
        return ""
    return trn(
        " Each time the point is verified whose last verification is the longest ago.",
        " Each time the {count} points are verified whose last verification is the longest ago.",
        count,
    )


def _merging(wanted: Schedule) -> str:
    if not wanted.merge_at:
        return ""
    return tr(
        " What its policy keeps no more is merged at {merge_at}, and not after each backup.",
        merge_at=wanted.merge_at,
    )


def _waiting(wanted: Schedule) -> str:
    said = ""
    if wanted.networks:
        said += tr(" Only on {networks}.", networks=", ".join(wanted.networks))
    if wanted.not_metered:
        said += tr(" Not on a metered network.")
    if wanted.not_presenting:
        said += tr(" Not while somebody presents.")
    return said


def run(plan: SchedulePlan, task: Task) -> ScheduleResult:
    """Set it. First comes the record, so that no unit is there of which nothing is known."""
    task.check()
    plan.store.save(plan.schedule)
    if not plan.by_systemd:
        return ScheduleResult(plan.schedule, cron=plan.cron)
    others = [each for each in _names(plan.schedule.id) if each not in plan.units.texts]
    stays = systemd.linger() if plan.lingers else ""
    trouble = systemd.remove(others) or systemd.install(plan.units) or stays
    return ScheduleResult(plan.schedule, trouble=trouble)


@dataclass(frozen=True)
class Removal:
    """What was removed.

    Attributes:
        cron: what is to be removed from a crontab by hand, where systemd does not run; else "".
        by_cron: it may stand there, and nobody knows any more how: what was noted was damaged.
        trouble: why systemd did not take it; "" where it did.
    """

    set_name: str
    cron: str = ""
    by_cron: bool = False
    trouble: str = ""


def remove(store: Store, repository: Path, set_name: str) -> Removal:
    """Let a set's schedule be run no more: the units go first, then what is known of it.

    One whose record is damaged goes, too. Raises ScheduleNotFound where there is none.
    """
    schedule = store.find(repository, set_name)
    if schedule is None and not store.is_damaged(repository, set_name):
        store.get(repository, set_name)
    which = schedule_id(repository, set_name)
    trouble = systemd.remove(_names(which)) if systemd.runs() else ""
    store.remove(which)
    if systemd.runs():
        return Removal(set_name, trouble=trouble)
    if schedule is None:
        return Removal(set_name, by_cron=True)
    return Removal(set_name, crontab_line(schedule, _command(schedule), _command(schedule, MERGE)))


def _names(which: str) -> list[str]:
    return [name_of(which, kind, what) for what in (BACKUP, MERGE) for kind in ("timer", "service")]


def _command(schedule: Schedule, what: str = BACKUP) -> Sequence[str]:
    """What runs it: it finds the schedule in the same folders as who has set it."""
    own = [f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)]
    where = ("-r", str(schedule.repository), f"--set={schedule.set_name}")
    run = (*PROGRAM, "schedule", "merge" if what == MERGE else "run", *where, "--json")
    return ("/usr/bin/env", *own, *run) if own else run


def _others_may_change() -> str:
    """What there is to say where others than root may change what root is to run; else ""."""
    for program in (Path(sys.executable), Path(__file__)):
        for path in (program, *program.resolve().parents):
            about = path.stat()
            shared = (
                about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not about.st_mode & stat.S_ISVTX
            )
            if about.st_uid or shared:
                return tr(
                    "Others than root may change {path}, and so what root runs then: install "
                    "the program where only root may write.",
                    path=path,
                )
    return ""


def _read_by(source: SourceRef) -> str:
    """What there is to say of who reads the source; "" where this user may.

    Raises SourceNotPermitted where a backup by this user could never read it.
    """
    if not source.is_file or not source.path.exists() or os.access(source.path, os.R_OK):
        return ""
    if source.path.is_block_device() and can_be_asked_for():
        return tr(
            " {source} is read for you as far as polkit allows it: an administrator has to have "
            "allowed it by a rule, as nobody is there at night to be asked.",
            source=source.path,
        )
    raise SourceNotPermitted(
        tr(
            "You may not read {source}, and nobody is there at night to be asked.",
            source=source.path,
        ),
        tr("Set the schedule as root: then the system backs it up, whoever is logged in."),
    )


def mount_point_of(folder: Path) -> str:
    """Of the drive that a folder lies on.

    Raises UsageError where that is the system's own, which nobody plugs in.
    """
    for each in (folder, *folder.parents):
        if os.path.ismount(each):
            if str(each) != "/":
                return str(each)
            break
    raise UsageError(
        tr("{folder} lies on no drive that can be plugged in.", folder=folder),
        tr("Say how often instead."),
    )
