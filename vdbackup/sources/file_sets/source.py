"""Chosen files as a source: a disk of their own, which is brought up to date when it is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from vdbackup.disks.extents import Ranges, as_ranges
from vdbackup.errors import Damaged, NoSpace, SourceNotFound
from vdbackup.jobs import Task, readable_size
from vdbackup.sources.file_sets import blank, image
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.delta import Delta, folder_of_deltas
from vdbackup.sources.file_sets.one_moment import OneMoment
from vdbackup.sources.file_sets.sync import Sync
from vdbackup.sources.file_sets.tree import Tree
from vdbackup.sources.identity import Facts, Kind
from vdbackup.sources.moment import Follow, Outcome
from vdbackup.sources.reference import Scheme, SourceRef
from vdbackup.sources.source import Rounds
from vdbackup.translation import tr
from vdbackup.volumes.places import Disk


class FileSetSource:
    """A Source (source.py) that is made of chosen files. Nothing is read before its rounds begin.

    Args:
        choice: what is chosen.
        size_before: bytes of the disk that the points before have; None where there are none.
        apart: folders that do not belong to it, wherever they lie: the repository.
        reads_all: read what has not changed since the point before, too.
        of_one_moment: read them from snapshots, where these can be had.

    Raises SourceNotFound where nothing is there of what is chosen.
    """

    sector_size = blank.SECTOR
    exact_size = None
    said = None
    files: tuple[Path, ...] = ()
    holes_are_known = True

    def __init__(
        self,
        choice: Choice,
        size_before: int | None = None,
        apart: Sequence[Path] = (),
        *,
        reads_all: bool = False,
        of_one_moment: bool = True,
    ) -> None:
        self.choice = choice
        if not any(map(os.path.lexists, choice.paths)):
            raise SourceNotFound(
                tr("There is no {choice}.", choice=choice.title),
                tr("Check the path, and whether its drive is mounted."),
            )
        self._tree = Tree(choice, apart)
        self._reads_all = reads_all
        self.survey = self._tree.survey(lambda _files: None)
        self.size = blank.size_for(self.survey.content, self.survey.files, size_before)
        self.unit = blank.unit_for(self.size, self.survey.content, self.survey.files)
        self._delta: Delta | None = None
        self._trouble: tuple[str, ...] = ()
        self.moment = OneMoment(choice, wanted=of_one_moment)
        self._undo = ExitStack()

    @property
    def ref(self) -> SourceRef:
        """By what it is found again."""
        return SourceRef(Scheme.FILES, str(self.choice))

    @property
    def title(self) -> str:
        """What sentences call it."""
        return self.choice.title

    @property
    def name(self) -> str:
        """What a set of it is called."""
        return name_of(self.choice)

    @property
    def id(self) -> str:
        """What finds it."""
        return str(self.ref)

    @property
    def unread(self) -> tuple[str, ...]:
        """Nothing that `remark` does not tell."""
        return ()

    @property
    def remark(self) -> str:
        """How much it is, and what is left out as it is meant to be."""
        return " ".join((self.survey.sentence, *self._tree.left_out.sentences))

    def facts(self) -> Facts:
        """It is known by what is chosen; what of that is left out may change."""
        return facts_of(self.choice)

    def holds(self, folder: Path) -> bool:
        """Whether a folder is stored on it: the repository is left out."""
        return False

    def data_ranges(self) -> Ranges:
        """What may hold anything but zeros; how much that will be, as long as nothing was read."""
        if self._delta is not None:
            return self._delta.written()
        return as_ranges([(0, min(self.size, self.survey.content))])

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` from byte `offset` of the disk on; zeros outside of its rounds."""
        if self._delta is None:
            view[:] = bytes(len(view))
        else:
            self._delta.readinto(offset, view)

    def check_present(self) -> None:
        """It was there when it was opened; what is not there any more is said (`trouble`)."""

    def rounds(self, follow: Follow | None = None) -> Rounds:
        """What brings the disk up to date, from what the point before has."""
        return _FileRounds(self, follow)

    def defects(self) -> tuple[str, ...]:
        """Nothing is always wrong with it."""
        return ()

    def trouble(self) -> tuple[str, ...]:
        """What the user must know of what was read, a sentence each."""
        return self._trouble

    def bring_up_to_date(self, follow: Follow | None) -> bool:
        """Read the files onto the disk; whether it is one that was there before.

        Until `let_go` it can be read.
        """
        self._tree.instead = self._undo.enter_context(self.moment).instead
        task = follow.task if follow else Task()
        before = follow.before if follow else None
        parent = self._undo.enter_context(before()) if before else None
        if parent is None or parent.size != self.size:
            self._read(None, task)
            return False
        try:
            self._read(parent, task)
        except Damaged as error:  # to go on from it would make it what was captured
            self._undo.close()
            self._tree.instead = self._undo.enter_context(self.moment).instead
            self._read(None, task)
            made = tr(
                "What lies in the point before cannot be gone on from, so all files are kept anew"
            )
            self._trouble = (tr("{made}: {error}", made=made, error=error.title), *self._trouble)
            return False
        return True

    def _read(self, parent: Disk | None, task: Task) -> None:
        """Read the files onto the disk, over what the point before has."""
        self._check_space(everything=parent is None)
        delta = self._undo.enter_context(Delta(self.size, parent))
        if parent is None:
            blank.make(delta)
        with image.Image(delta) as files:
            sync = Sync(
                files, self._tree, self.survey.content, reads_all=self._reads_all, task=task
            )
            sync.run()
            files.finish()
        self.moment.check()
        self._trouble = (*sync.found.sentences, *self._tree.left_out.warnings)
        self._delta = delta

    def let_go(self) -> None:
        """Give up the disk."""
        self._delta = None
        self._undo.close()

    def _check_space(self, *, everything: bool) -> None:
        folder = folder_of_deltas()
        free = shutil.disk_usage(folder).free
        if everything and free < self.survey.content:
            raise NoSpace(
                tr(
                    "What is read of {title} lies in {folder} until it is stored: {size} are "
                    "needed there, and {size_2} are free.",
                    title=self.title,
                    folder=folder,
                    size=readable_size(self.survey.content),
                    size_2=readable_size(free),
                ),
                tr("Free some space there, or name another folder in TMPDIR."),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()


def name_of(choice: Choice) -> str:
    """What a set of it is called."""
    return os.path.basename(choice.paths[0]) or "files"


def facts_of(choice: Choice) -> Facts:
    """It is known by what is chosen; what of that is left out may change."""
    return Facts(paths=(str(Choice(choice.paths)),), kind=Kind.FILES)


class _FileRounds:
    """Its Rounds: all is read when they begin, file by file; then the disk stays as it is."""

    marks_writes = False
    scan_reason = ""

    def __init__(self, source: FileSetSource, follow: Follow | None) -> None:
        self._source, self._follow = source, follow
        self.changed: Ranges | None = None
        self.restless: Ranges = as_ranges([])

    @property
    def hindrance(self) -> str:
        """Why it will be no single moment, as far as that is known."""
        return self._source.moment.hindrance

    def distrust(self, why: str) -> None:
        """What was written is known, and not believed."""

    def keep(self) -> None:
        """The next one goes on from the disk itself."""

    def __enter__(self) -> Self:
        if self._source.bring_up_to_date(self._follow):
            self.changed = self._source.data_ranges()
        return self

    def __exit__(self, *_: object) -> None:
        """Give up the disk: the point before may be merged away now."""
        self._source.let_go()

    def __iter__(self) -> Iterator[Ranges]:
        return iter(())

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` as `Source.readinto` does."""
        self._source.readinto(offset, view)

    def outcome(self) -> Outcome:
        """From a snapshot all are of its moment; else each is as it was when it was read."""
        return Outcome(self._source.moment.consistency, self._source.trouble())
