"""Which files a set is of: looked at before it is kept, and changed later.

What is changed later counts from the next backup on; the points that there are stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.errors import NotInPoint, UsageError
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.operations.changed import Changed
from vdbackup.recovery.file_sets.choices import choice_now
from vdbackup.repository.model import SourceIdentity
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.source import facts_of, name_of
from vdbackup.sources.file_sets.tree import Survey, Tree
from vdbackup.sources.reference import Scheme, SourceRef
from vdbackup.translation import grouped, tr

__all__ = [
    "ChoicePlan",
    "ChoiceResult",
    "Chosen",
    "Preview",
    "differences",
    "plan",
    "preview",
    "reference",
    "run",
]


@dataclass(frozen=True)
class Chosen:
    """One of the folders and files that are chosen.

    Attributes:
        path: of it.
        survey: how much lies in it; None where it is not there.
    """

    path: str
    survey: Survey | None


@dataclass(frozen=True)
class Preview:
    """How much would be kept.

    Attributes:
        choice: of what: links are followed, and what lies in another folder of it is left away.
        chosen: of each of its paths.
    """

    choice: Choice
    chosen: tuple[Chosen, ...]

    @property
    def total(self) -> Survey:
        """All of it together."""
        found = [each.survey for each in self.chosen if each.survey]
        return Survey(sum(each.files for each in found), sum(each.content for each in found))

    @property
    def sentences(self) -> tuple[str, ...]:
        """How much it is, what is left out, and what is not there."""
        left_out = [
            sentence
            for each in self.chosen
            if each.survey
            for sentence in (*each.survey.left_out.sentences, *each.survey.left_out.warnings)
        ]
        gone = [
            tr("There is no {path} now.", path=each.path)
            for each in self.chosen
            if each.survey is None
        ]
        return (self.total.sentence, *dict.fromkeys(left_out), *gone)


def preview(choice: Choice, apart: Sequence[Path], task: Task) -> Preview:
    """Count what a choice would keep, and what of it is left out; nothing is read of files.

    Args:
        choice: what is chosen.
        apart: folders that do not belong to it: the repository.
        task: what stops it, and hears how many files there are so far.

    Raises Cancelled.
    """
    choice = _meant(choice)
    chosen: list[Chosen] = []
    before = 0

    def counted(files: int) -> None:
        task.check()
        task.phase(tr("{count} files and folders so far", count=grouped(before + files)))

    for path in choice.paths:
        task.check()
        survey = None
        if os.path.lexists(path):
            survey = Tree(replace(choice, paths=(path,)), apart).survey(counted)
            before += survey.files
        chosen.append(Chosen(path, survey))
    return Preview(choice, tuple(chosen))


def _meant(choice: Choice) -> Choice:
    flags = {"crosses": choice.crosses, "caches": choice.caches}
    return Choice.of(choice.paths, choice.exclude, **flags, largest=choice.largest)


def reference(choice: Choice) -> SourceRef:
    """What a choice is backed up by."""
    return SourceRef(Scheme.FILES, str(choice))


@dataclass(frozen=True, kw_only=True)
class ChoicePlan(Plan):
    """What another choice for a set would mean.

    Attributes:
        now: what it is of.
        wanted: what it would be of.
    """

    repository: Repository
    set_name: str
    now: Choice
    wanted: Choice


@dataclass(frozen=True)
class ChoiceResult:
    """What a set is of from now on.

    Attributes:
        sentence: the same for a person.
        changed: what is to be read again.
    """

    set_name: str
    source: SourceRef
    sentence: str
    changed: Changed


def plan(repository: Repository, set_name: str, wanted: Choice) -> ChoicePlan:
    """What it would mean.

    Raises NotInPoint where the set is of no files, UsageError where nothing would change, and what
    reading the set raises.
    """
    now, wanted = _now(repository, set_name), _meant(wanted)
    changes = differences(now, wanted)
    if not changes:
        raise UsageError(
            tr("{set_name} is of these files already.", set_name=set_name),
            tr("Add something, or leave something out."),
        )
    stay = tr("It counts from the next backup on; the points that there are stay as they are.")
    return ChoicePlan(
        summary=" ".join((*changes, stay)),
        repository=repository,
        set_name=set_name,
        now=now,
        wanted=wanted,
    )


def run(plan: ChoicePlan, task: Task) -> ChoiceResult:
    """Have the set be of these files from its next backup on; raises as `plan` does."""
    repository, name = plan.repository, plan.set_name
    source = reference(plan.wanted)
    with repository.lock(tr("changing what {name} is of", name=name), task.cancel):
        if _now(repository, name) != plan.now:
            raise UsageError(
                tr("What {name} is of has been changed meanwhile.", name=name),
                tr("Look at what it is of now, and decide again."),
            )
        settings = repository.set(name).settings
        facts = facts_of(plan.wanted).record()
        identity = SourceIdentity(str(source), name_of(plan.wanted), str(source), facts)
        repository.save_settings(name, replace(settings, source=identity))
    return ChoiceResult(name, source, plan.summary, Changed.only(name))


def _now(repository: Repository, set_name: str) -> Choice:
    choice = choice_now(repository.set(set_name).settings)
    if choice is None:
        raise NotInPoint(
            tr("{set_name} is of a disk, not of chosen files.", set_name=set_name),
            tr("A disk is backed up as a whole."),
        )
    return choice


def differences(now: Choice, wanted: Choice) -> tuple[str, ...]:
    """What another choice takes more, and what it leaves out, a sentence each; none if nothing."""
    said = {
        tr("Added"): _less(wanted.paths, now.paths),
        tr("Not taken any more"): _less(now.paths, wanted.paths),
        tr("Left out by now"): _less(wanted.exclude, now.exclude),
        tr("Not left out any more"): _less(now.exclude, wanted.exclude),
    }
    found = [f"{what}: {', '.join(names)}." for what, names in said.items() if names]
    if now.largest != wanted.largest:
        found.append(
            tr("Files of more than {size} are left out.", size=readable_size(wanted.largest))
            if wanted.largest
            else tr("Files of any size are taken.")
        )
    if now.caches != wanted.caches:
        found.append(
            tr("Folders marked as caches are taken, too.")
            if wanted.caches
            else tr("Folders marked as caches are left out.")
        )
    if now.crosses != wanted.crosses:
        found.append(
            tr("Other file systems in the folders are taken, too.")
            if wanted.crosses
            else tr("Other file systems in the folders are left out.")
        )
    return tuple(found)


def _less(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [name for name in names if name not in others]
