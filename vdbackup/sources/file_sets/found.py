"""What there is to say of files that could not be kept as they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from vdbackup.sources.file_sets.tree import named
from vdbackup.translation import tr


@dataclass
class Found:
    """What there is to say of the files, by path.

    Attributes:
        unreadable: what could not be read, and is not there, with the reason.
        kept: what could not be read, and is as the point before has it, with the reason.
        away: chosen folders on which nothing is mounted any more, and which are as the point before
            has them.
        restless: what changed each time while it was read.
        lost: what is zeros in part, because its medium fails.
        bare: what has lost extended attributes, for which there is no room.
        unfit: what ext4 has no place for: too long a name, too large a file.
    """

    unreadable: list[bytes] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)
    away: list[bytes] = field(default_factory=list)
    restless: list[bytes] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)
    bare: list[bytes] = field(default_factory=list)
    unfit: list[bytes] = field(default_factory=list)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the user must know, a sentence each."""
        said = {
            "These could not be read, and are not in the point": self.unreadable,
            "These could not be read, and are as the point before has them": self.kept,
            "These are empty, and other folders than before, as where a drive is not mounted, and "
            "stay as the point before has them": self.away,
            "These changed each time while they were read, and may be of no one moment": (
                self.restless
            ),
            "These could not be read in part, and have zeros there": self.lost,
            "For some extended attributes of these there is no room": self.bare,
            "These have names or sizes that cannot be kept": self.unfit,
        }
        return tuple(
            tr("{what}: {names}.", what=what, names=named(paths))
            for what, paths in said.items()
            if paths
        )
