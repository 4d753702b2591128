"""Rights of others (set-user-id, set-group-id, capabilities) of files that are put back.

Nobody gets them from what lies on a disk, which may be anybody's (metadata.py). But a program that
has them, and is replaced by what it was, must not lose them: without them `sudo` is none. So it is
given what both have, the point's file and the one that it takes the place of, if both are the same
owner's.
"""

from __future__ import annotations

import os
import stat as posix
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from vdbackup.recovery.metadata import CAPABILITY, RIGHTS, Giver
from vdbackup.recovery.pinned import pinned


@dataclass(frozen=True)
class _Withheld:
    path: str
    bits: int = 0
    capability: bytes = b""


class RightsLater(Giver):
    """Gives all but these rights, until it is known what a file replaces.

    Args:
        own: the path on this computer, by that in the point.
    """

    def __init__(self, own: Callable[[str], bytes]) -> None:
        super().__init__()
        self._own = own
        self._withheld: dict[bytes, _Withheld] = {}

    def withhold(self, path: str, bits: int, capability: bytes) -> None:
        """Keep in mind what a file of the point had."""
        own = self._own(path)
        before = self._withheld.get(own, _Withheld(path))
        self._withheld[own] = _Withheld(path, before.bits | bits, before.capability or capability)

    def keep(self, own: bytes, made: tuple[bytes, int], there: tuple[bytes, int]) -> None:
        """Give a file that is whole what it and the one at `own` have both; raises OSError.

        Both are said by name and open folder.
        """
        withheld = self._withheld.get(own)
        if withheld is None:
            return
        with pinned(*made) as (at, mine), pinned(*there) as (at_other, other):
            if not (posix.S_ISREG(mine.st_mode) and posix.S_ISREG(other.st_mode)):
                return
            if (mine.st_uid, mine.st_gid) != (other.st_uid, other.st_gid):
                return
            bits = withheld.bits & other.st_mode & RIGHTS
            has_capability = withheld.capability and withheld.capability == _capability(at_other)
            if bits:
                os.chmod(at, posix.S_IMODE(mine.st_mode) | bits)
            if has_capability:
                os.setxattr(at, CAPABILITY, withheld.capability)
        if bits == withheld.bits and (has_capability or not withheld.capability):
            del self._withheld[own]

    def tell(self, lost: Giver) -> None:
        """Have it said of which files they were not given."""
        for each in self._withheld.values():
            lost.withhold(each.path, each.bits, each.capability)


def _capability(path: str) -> bytes:
    with suppress(OSError):  # it has none
        return os.getxattr(path, CAPABILITY)
    return b""
