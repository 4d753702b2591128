"""Which sets an operation changed: who shows them reads those again, and no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Changed:
    """Sets of one repository that are other ones now.

    Attributes:
        sets: their names, which are their folders'; None where any of them may be.
    """

    sets: frozenset[str] | None

    @classmethod
    def only(cls, *names: str) -> Self:
        """These, and no other."""
        return cls(frozenset(names))

    def covers(self, other: Changed) -> bool:
        """Whether whoever reads these again has read the other ones, too."""
        return self.sets is None or (other.sets is not None and other.sets <= self.sets)


ANY = Changed(None)
NOTHING = Changed.only()
