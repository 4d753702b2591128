"""The volumes of several points, opened with the same keys.

A disk may have been encrypted only after the first of its points, or its passphrase been changed
between two: so a key is called wrong only where no point was opened with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from vdbackup.errors import RecoveryError
from vdbackup.translation import tr
from vdbackup.volumes.keys import Keys
from vdbackup.volumes.places import Disk
from vdbackup.volumes.volumes import Volumes


def in_point(number: int, sentences: Iterable[str]) -> list[str]:
    """What is to be said of a point's volumes, with the point's number before it."""
    return [tr("Point {number}: {error}", number=number, error=each) for each in sentences]


class Unlocking:
    """Opens the volumes of one disk after the other.

    Attributes:
        is_locked: whether something was encrypted that no key has opened.
    """

    def __init__(self, keys: Keys) -> None:
        self.is_locked = False
        self._keys = keys
        self._any_opened = False
        self._refused: RecoveryError | None = None

    def volumes(self, disk: Disk) -> Volumes:
        """A disk's volumes; raises RecoveryError where its partition table is damaged."""
        found = Volumes(disk)
        if self._keys:
            try:
                found.unlock(self._keys)
                self._any_opened = True
            except RecoveryError as error:
                self._refused = self._refused or error
        self.is_locked |= any(found.open(name)[0].is_locked for name in found.by_name)
        return found

    def check(self) -> None:
        """Raise why no disk was opened with the keys: WrongKey, or as `Volumes.unlock`."""
        if self._refused is not None and not self._any_opened:
            raise self._refused
