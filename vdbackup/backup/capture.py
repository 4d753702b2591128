"""Capture: a source's state into a new recovery point.

There is one way to do it. What differs from the state that the parent stands for goes into the new
layer (differences.py); for a full that state is a disk of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.backup import following, merge, retention, space, unmerged, unread
from vdbackup.backup.belonging import belonging
from vdbackup.backup.copying import Copying, Wish, check_wanted
from vdbackup.backup.differences import to_read
from vdbackup.backup.kind import AUTO, Choice, choose, not_possible
from vdbackup.backup.set_format import format_for
from vdbackup.disks.extents import total, without
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import (
    ChangedMeanwhile,
    FileTooLarge,
    OtherFormat,
    PointInUse,
    Remedy,
    StorageError,
    VdbackupError,
    WrongPlace,
    from_os,
)
from vdbackup.jobs import Plan, Task
from vdbackup.repository import claims, long_chains
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint, SetSettings, SourceIdentity
from vdbackup.repository.naming import PointType
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository
from vdbackup.sources.identity import Verdict
from vdbackup.sources.moment import Wanted
from vdbackup.sources.source import OneReading, Rounds, Source
from vdbackup.translation import tr
from vdbackup.volumes import elsewhere
from vdbackup.volumes.allocation import LeftOut

_ARTICLES = {
    PointType.FULL: tr("a full"),
    PointType.INCREMENTAL: tr("an incremental"),
    PointType.DIFFERENTIAL: tr("a differential"),
}


@dataclass(frozen=True, kw_only=True)
class CapturePlan(Plan):
    """What a capture would do.

    Attributes:
        set_name: the set that the point goes into; made by `run` if `new_set`.
        kind: what the point will be.
        parent_id: what it will read through; None for a full.
        note: why it is not the kind that was asked for, or why it has to be a full; else "".
        damaged: whether that is because the points there are cannot be gone on from.
        asked: the kind that was asked for ("auto" included).
        policy: the set's from now on; None leaves it as it is.
        identity: what is to be kept of the source.
        known: what the set knows of it until now; None for a new set.
        confirmed: the user says that it is the set's source, though it does not look so: nothing
            older is merged or deleted this time.
        similar: a set that may hold this source's backups, though this is not sure, or "".
        about_source: what there is to say of that, or "".
        consistency: what the point is to be.
        read_all: read everything, whatever a tracker says.
        all_blocks: whether what is free is read and kept, too.
        left_out: what of the source is not read, as far as that is known before.
        elsewhere: what of it cannot be put together without disks that are not backed up with it.
        choice: what was looked at for it.
        merges: the set's policy is applied after it; else at another time.
    """

    repository: Repository
    source: Source
    set_name: str
    new_set: bool
    disk_format: DiskFormat
    kind: PointType
    parent_id: str | None
    note: str
    damaged: bool
    asked: str
    policy: Policy | None
    identity: SourceIdentity
    known: SourceIdentity | None
    confirmed: bool
    similar: str
    about_source: str
    consistency: Wanted
    read_all: bool
    all_blocks: bool
    left_out: LeftOut
    elsewhere: tuple[str, ...]
    choice: Choice
    merges: bool = True


@dataclass(frozen=True)
class CaptureResult:
    """What a capture did.

    Attributes:
        point: the new recovery point; after a merge by policy, as it is now.
        warnings: what was not as it should be.
        notes: what else was done: why it became a full, what was filled up, what the policy merged.
        policy: what the set does automatically.
    """

    set_name: str
    point: RecoveryPoint
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    policy: Policy


def check_apart(source: Source, repository: Path) -> None:
    """Refuse a repository that is the source, lies on it, or holds it; raises BackupError."""
    folder = repository.resolve()
    files = [file.resolve() for file in source.files]
    if folder in files:
        raise WrongPlace(
            tr("{repository} is the source itself.", repository=repository),
            tr("Choose another folder for the backups."),
        )
    if any(file.is_relative_to(folder) for file in files):
        raise WrongPlace(
            tr(
                "{source} lies inside the repository {repository}.",
                source=source.title,
                repository=repository,
            ),
            tr("Back it up into another repository."),
        )
    if source.holds(folder):
        raise WrongPlace(
            tr(
                "{repository} lies on {source}, which is to be backed up: the backup would be "
                "lost with its source.",
                repository=repository,
                source=source.title,
            ),
            tr("Choose a folder on another disk."),
        )


def plan(  # noqa: PLR0913 - each is a thing that is asked for
    repository: Repository,
    source: Source,
    *,
    set_name: str | None = None,
    kind: str = AUTO,
    disk_format: str | None = None,
    policy: Policy | None = None,
    same_source: bool = False,
    consistency: Wanted = Wanted.AUTO,
    read_all: bool = False,
    all_blocks: bool = False,
    beside: Sequence[Source] = (),
) -> CapturePlan:
    """What backing up `source` now would do.

    Args:
        repository: where to.
        source: open for reading, until `run` is done.
        set_name: the set; found by what is known of the source, or made, if None.
        kind: "auto" (incremental where possible), "full", "incremental" or "differential".
        disk_format: of a new set; an existing set keeps its own.
        policy: the set's from now on; None leaves it as it is.
        same_source: the user says that `source` is what the set `set_name` holds the backups of.
        consistency: what the point is to be.
        read_all: read everything, whatever a tracker says.
        all_blocks: whether what is free is read and kept, too.
        beside: what is backed up at the same moment: its machine's other disks.

    Raises:
        BackupError: it cannot be done, and why; OtherSource unless `same_source`.
    """
    check_apart(source, repository.path)
    home = belonging(repository, source, set_name, same_source=same_source)
    name, existing = home.set_name, home.existing
    if existing is None:
        choice = Choice(PointType.FULL, None, not_possible(kind, tr("there is no point yet")))
        kept_in, note = format_for(source, disk_format)
        choice = replace(choice, note=f"{choice.note} {note}".strip())
    else:
        if disk_format not in (None, existing.settings.format):
            raise OtherFormat(
                tr(
                    "The set {name} is kept in {format}, not in {disk_format}.",
                    name=name,
                    format=existing.settings.format,
                    disk_format=disk_format,
                ),
                tr("A set stays in its format."),
                remedy=Remedy.SET_KEEPS_ITS_FORMAT,
            )
        choice = choose(existing, source, kind)
        if choice.damaged:  # or a merge is just giving its files other names
            ids = [point.id for point in existing.points]
            with claims.reading(repository, name, ids, tr("planning a backup")) as now:
                choice = choose(now, source, kind)
        if home.confirmed is Verdict.OTHER:
            choice = Choice(
                PointType.FULL, None, not_possible(kind, tr("its source is another now"))
            )
        kept_in = existing.settings.format
    rounds = OneReading(source) if consistency is Wanted.AS_IS else source.rounds()
    left_out = unread.planned(source, rounds, all_blocks=all_blocks)
    spread = elsewhere.sentences(source, beside)
    parent = tr(" onto point {parent}", parent=choice.parent.sequence) if choice.parent else ""
    summary = tr(
        "{source} is backed up into the set {name}, as {articles} recovery point{parent}.",
        source=source.title,
        name=name,
        articles=_ARTICLES[choice.kind],
        parent=parent,
    )
    return CapturePlan(
        summary=" ".join(
            each
            for each in (
                summary,
                choice.note,
                home.note,
                source.remark,
                *left_out.sentences,
                *spread,
            )
            if each
        ),
        bytes_to_copy=total(without(to_read(source, choice.held), left_out.ranges)),
        creates=(tr("a layer ({kept_in}), its overlay, digests and manifest", kept_in=kept_in),),
        repository=repository,
        source=source,
        set_name=name,
        new_set=existing is None,
        disk_format=kept_in,
        kind=choice.kind,
        parent_id=choice.parent.id if choice.parent else None,
        note=choice.note,
        damaged=choice.damaged,
        asked=kind,
        policy=policy,
        identity=home.identity,
        known=existing.settings.source if existing else None,
        confirmed=home.confirmed is not None,
        similar=home.similar,
        about_source=home.note,
        consistency=consistency,
        read_all=read_all,
        all_blocks=all_blocks,
        left_out=left_out,
        elsewhere=spread,
        choice=choice,
    )


def run(plan: CapturePlan, task: Task) -> CaptureResult:
    """Capture, publish the point, then apply the set's policy.

    A capture that fails or is cancelled leaves the last point as it was. The policy begins only
    after the point is published; if it fails, the point stays, with a warning.
    """
    repository, source = plan.repository, plan.source
    with repository.lock(tr("backing up {source}", source=source.title), task.cancel):
        begun = begin(plan, task)
        with (
            rounds_of(plan, begun, task) as rounds,
            copying(plan, begun, rounds, tr("Capture"), task) as copy,
        ):
            copy.read()
            for changed in rounds:
                copy.read_again(changed)
            copy.complete(begun.noted)
            point = copy.draft.publish()
            rounds.keep()
        settled = settle(plan, begun, point)
        notes, warnings = settled.notes, settled.warnings
        # a mistake must not cost the other source its backups
        doubt = plan.confirmed or begun.interrupted or settled.failed
        if plan.merges and not doubt:
            applied = unmerged.after_point(
                repository,
                [plan.set_name],
                lambda: retention.apply(repository, plan.set_name, task),
            )
            notes += applied.done
            warnings += applied.damaged
        return result(plan, point, notes, warnings)


@dataclass(frozen=True)
class Begun:
    """A capture that has looked at its set, under the lock.

    Attributes:
        backup_set: as it is.
        choice: what the point will be.
        space: warnings of it: that it may be too little, that layers take it unseen.
        published: notes on publications that were finished.
        interrupted: why a merge is not finished; "" where none is waiting.
        noted: warnings that the point notes.
    """

    backup_set: BackupSet
    choice: Choice
    space: tuple[str, ...]
    published: tuple[str, ...]
    interrupted: tuple[str, ...]
    noted: tuple[str, ...]


def begin(plan: CapturePlan, task: Task) -> Begun:
    """See that the plan still holds, and finish what was cut off; the caller holds the lock.

    Raises ChangedMeanwhile, NoSpace, SourceError.
    """
    repository, source = plan.repository, plan.source
    full = plan.kind == PointType.FULL
    tight = space.check(source, repository.path, plan.left_out, full=full)
    if plan.new_set:
        repository.create_set(plan.set_name, _settings_for(source, plan))
    begun = merge.publish_begun(repository, plan.set_name)
    published = merge.published_sentences(plan.set_name, begun)
    interrupted = _finish_merge(repository, plan.set_name, task)
    backup_set = repository.set(plan.set_name)
    choice = choose(backup_set, source, plan.kind.value, before=plan.choice)
    changed = plan.known not in (None, backup_set.settings.source)
    if changed or choice.kind != plan.kind:  # the repository, since the plan was shown
        raise ChangedMeanwhile(
            tr("{set_name} has changed meanwhile.", set_name=plan.set_name),
            tr("Start the backup again."),
        )
    source.check_present()
    noted: tuple[str, ...] = ()
    if plan.note and (plan.damaged or plan.asked not in (AUTO, plan.kind.value)):
        noted = (plan.note,)
    warned = (*tight, *space.unlisted(backup_set))
    return Begun(backup_set, choice, warned, tuple(published), interrupted, noted)


def rounds_of(plan: CapturePlan, begun: Begun, task: Task) -> Rounds:
    """In which the source is read; what is known of it is the parent's."""
    if plan.consistency is Wanted.AS_IS:
        return OneReading(plan.source)
    parent = begun.choice.parent
    rounds = plan.source.rounds(following.follow(plan.repository, plan.set_name, parent, task))
    check_wanted(plan.source, plan.consistency, rounds.hindrance)  # before all is read in vain
    return rounds


def copying(plan: CapturePlan, begun: Begun, rounds: Rounds, doing: str, task: Task) -> Copying:
    """The copy that is to be made in these rounds, which have begun by when it is used."""
    wish = Wish(
        begun.choice.kind,
        begun.choice.parent,
        plan.identity,
        plan.consistency,
        plan.read_all,
        plan.all_blocks,
        plan.left_out,
        plan.policy or begun.backup_set.settings.policy,
        doing,
    )
    return Copying(begun.backup_set, plan.source, rounds, wish, task)


@dataclass(frozen=True)
class Settled:
    """What there is to say of a point that exists, before anything older is merged.

    Attributes:
        failed: the set's settings could not be written: then nothing older goes.
    """

    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    failed: bool


def settle(plan: CapturePlan, begun: Begun, point: RecoveryPoint) -> Settled:
    """Note in the set what its new point has shown; never raises what would cost the point."""
    source = plan.source
    warnings = (*point.warnings, *begun.interrupted, *begun.space)
    moment = point.reading.consistency.sentence if point.reading else ""
    about_free = point.reading.about_free if point.reading else ()
    said = (plan.note, source.remark, moment, *about_free, *begun.published)
    notes = tuple(filter(None, said))
    to_know = (*source.unread, *plan.elsewhere)
    if plan.new_set:
        warnings += to_know
    else:  # it was said, and is no trouble of this backup
        notes += to_know
    if plan.similar:
        warnings += (plan.about_source,)
    elif plan.about_source:
        notes += (plan.about_source,)
    try:
        policy, untold = _policy_after(begun.backup_set, plan)
        settings = _settings_after(begun.backup_set, plan, point, policy)
        plan.repository.save_settings(plan.set_name, settings)
    except (VdbackupError, OSError) as error:
        return Settled(notes, (*warnings, unmerged.not_merged(error)), failed=True)
    return Settled(notes, (*warnings, *untold), failed=False)


def result(
    plan: CapturePlan, point: RecoveryPoint, notes: tuple[str, ...], warnings: tuple[str, ...]
) -> CaptureResult:
    """What a capture did, as the set is now."""
    backup_set = plan.repository.set(plan.set_name)
    if long := long_chains.sentence(backup_set):
        notes += (long,)
    policy = backup_set.settings.policy
    return CaptureResult(plan.set_name, backup_set.point(point.id), warnings, notes, policy)


def _finish_merge(repository: Repository, set_name: str, task: Task) -> tuple[str, ...]:
    """Finish what was interrupted, or say why not: that must not cost the source its backup.

    What is captured reads right through layers that a merge is to change later (merge.py).
    """
    try:
        merge.finish_interrupted(repository, set_name, task)
    except (PointInUse, StorageError, OSError) as error:
        problem = from_os(error) if isinstance(error, OSError) else error
        if not isinstance(problem, _LATER):
            raise
        later = tr("A merge that was interrupted is finished later: {error}", error=problem.title)
        return (later, problem.advice) if isinstance(problem, FileTooLarge) else (later,)
    return ()


_LATER = (PointInUse, FileTooLarge)
"""What keeps a merge from being finished, and no point from being made."""


def _settings_for(source: Source, plan: CapturePlan) -> SetSettings:
    policy = plan.policy or Policy()
    return SetSettings(
        plan.identity,
        source.size,
        source.sector_size,
        plan.disk_format,
        policy,
        source_format=source.said or "",
    )


def _policy_after(backup_set: BackupSet, plan: CapturePlan) -> tuple[Policy, tuple[str, ...]]:
    """The policy from now on, and a warning where the set does not keep the number that was asked.

    The backup itself is worth more than a refusal.
    """
    now = backup_set.settings.policy
    wanted = plan.policy or now
    if why := retention.untold(backup_set, wanted):
        stays = tr(
            "{why}: how many it keeps stays as it was. Have them repaired, then say it again.",
            why=why,
        )
        return wanted.retaining(now), (stays,)
    return wanted, ()


def _settings_after(
    backup_set: BackupSet, plan: CapturePlan, point: RecoveryPoint, policy: Policy
) -> SetSettings:
    return replace(
        backup_set.settings,
        source=plan.identity,
        virtual_size=point.virtual_size,
        sector_size=point.sector_size,
        policy=policy,
        last_sequence=point.sequence,
        source_format=plan.source.said or "",
    )
