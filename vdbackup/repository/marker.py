"""`vdbackup.json`, by which a folder is known as a repository: how it is laid out, and its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vdbackup import records
from vdbackup.errors import DamagedMetadata, NewerLayout, NoRepository, Remedy
from vdbackup.repository.files import read_json, write_json
from vdbackup.translation import tr

MARKER = "vdbackup.json"
LAYOUT = 1
_HIGHEST_LAYOUT = 999
"""A number that is no version's: whoever is sent for a newer one looks in vain."""


def _known(layout: int) -> int:
    if layout not in range(1, LAYOUT + 1):
        raise ValueError(tr("layout {layout} is not known", layout=layout))
    return layout


@dataclass(frozen=True)
class Marker:
    """What the file says.

    Attributes:
        layout: by which rules the repository is laid out.
        id: its own; "" where none was written.
    """

    layout: Annotated[int, _known]
    id: str = ""

    @classmethod
    def load(cls, repository: Path) -> Marker:
        """The marker in a repository's folder; raises RepositoryError where there is no such."""
        try:
            data = read_json(repository / MARKER)
        except (FileNotFoundError, NotADirectoryError):
            raise NoRepository(
                tr(
                    "{repository} is not a repository of vdbackup: it has no {marker}.",
                    repository=repository,
                    marker=MARKER,
                ),
                tr("Connect the drive if it is on one, or give the folder that holds the backups."),
            ) from None
        if is_newer(data):
            raise NewerLayout(
                tr(
                    "{repository} has layout {layout}; this vdbackup knows layouts up to "
                    "{layout_2}.",
                    repository=repository,
                    layout=data["layout"],
                    layout_2=LAYOUT,
                ),
                tr("Use a newer version of vdbackup."),
            )
        try:
            return records.tolerant(cls, data)
        except (TypeError, ValueError) as error:
            raise DamagedMetadata(
                tr(
                    "{repository} is damaged: it does not say which layout the repository has.",
                    repository=repository / MARKER,
                ),
                tr("It can be rebuilt from the disks."),
                remedy=Remedy.REPAIR,
            ) from error

    def save(self, repository: Path) -> None:
        """Write it; raises as `write_json` does."""
        write_json(repository / MARKER, records.to_json(self))


def is_newer(marker: Mapping[str, object]) -> bool:
    """Whether a marker speaks of a layout of versions to come, whatever else it says."""
    layout = marker.get("layout")
    return type(layout) is int and LAYOUT < layout <= _HIGHEST_LAYOUT
