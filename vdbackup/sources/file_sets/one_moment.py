"""Chosen files as of one moment: read from a snapshot of what they lie on.

That is a subvolume of Btrfs, or a logical volume of which LVM makes one. Where they lie on several,
each has a moment of its own, which is better than none, but not one. Files on anything else are
read as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from vdbackup.consistency import Consistency, How
from vdbackup.errors import NotFrozen
from vdbackup.sources.file_sets import subvolume, volume
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.subvolume import Subvolume, mounted_below
from vdbackup.sources.file_sets.volume import Volume
from vdbackup.translation import tr

_NO_MOMENT = tr("files are read one after the other, while they may be written to.")
_SEVERAL = tr(
    "they lie on several subvolumes or volumes, of which each has a snapshot of its own moment."
)
_CROSSES = tr("other file systems that are mounted in the folders belong to them, too.")


_Snapshot = subvolume.Snapshot | volume.Snapshot


@dataclass(frozen=True)
class Instead:
    """What is read in the place of folders.

    Attributes:
        folders: descriptors of snapshots' roots, by the path of what they are of.
        devices: by which the kernel knows the snapshots, and what they are of (stat.st_dev).
        subvolumes: those of these that are Btrfs': what lies in them as EMPTY_INODE is one that is
            not in the snapshot.
        foreign: paths below which another file system was mounted at that moment.
    """

    folders: Mapping[bytes, int] = field(default_factory=dict)
    devices: Mapping[int, int] = field(default_factory=dict)
    subvolumes: frozenset[int] = frozenset()
    foreign: frozenset[bytes] = frozenset()


class OneMoment:
    """What makes the files one moment's, as far as can be. A context manager.

    Args:
        choice: the files.
        wanted: whether anything is to be done for that.

    Attributes:
        hindrance: why it will be no single moment, a sentence; "" while nothing is known.
        instead: what is to be read, within its block.
    """

    def __init__(self, choice: Choice, *, wanted: bool) -> None:
        self._choice = choice
        self._at: datetime | None = None
        self._undo = ExitStack()
        self._places: Sequence[Subvolume | Volume] = ()
        self._made: Sequence[_Snapshot] = ()
        self.instead = Instead()
        self.hindrance = _NO_MOMENT
        if wanted:
            self._look()

    def _look(self) -> None:
        """See whether snapshots can be had, and of what."""
        paths = [os.fsencode(path) for path in self._choice.paths if os.path.lexists(path)]
        try:
            found = [Subvolume.of(path) or Volume.of(path) for path in paths]
        except OSError:
            return
        if None in found or not found:
            return
        places = list(dict.fromkeys(each for each in found if each))
        hindrances = [each.hindrance() for each in places]
        if self._choice.crosses:  # what lies on them is not in a snapshot
            self.hindrance = _CROSSES
        elif any(hindrances):
            self.hindrance = next(filter(None, hindrances))
        else:
            self._places = places
            self.hindrance = _SEVERAL if len(places) > 1 else ""

    @property
    def consistency(self) -> Consistency:
        """As of which moment what was read in its block is."""
        if self._at is None or self.hindrance:
            return Consistency(How.AS_IS)
        return Consistency.snapshot(self._at)

    def __enter__(self) -> Self:
        if not self._places:
            return self
        at = datetime.now(UTC)
        try:
            with ExitStack() as stack:
                made = [_entered(stack, each) for each in self._places]
                self._undo = stack.pop_all()
        except NotFrozen as error:
            self.hindrance = error.title
            return self
        self._at = at
        self._made = made
        pairs = list(zip(self._places, made, strict=True))
        self.instead = Instead(
            {each.path: snapshot.fd for each, snapshot in pairs},
            {snapshot.device: each.device for each, snapshot in pairs},
            frozenset(made.device for each, made in pairs if isinstance(each, Subvolume)),
            mounted_below(tuple(map(os.fsencode, self._choice.paths))),
        )
        return self

    def check(self) -> None:
        """Raise SourceLost where what was read in its block may be none of that moment."""
        for each in self._made:
            each.check()

    def __exit__(self, *_: object) -> None:
        self._made = ()
        self.instead = Instead()
        self._undo.close()


def _entered(stack: ExitStack, place: Subvolume | Volume) -> _Snapshot:
    made: _Snapshot = place.snapshot()
    stack.push(made)
    return made
