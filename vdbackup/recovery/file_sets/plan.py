"""What restoring chosen files would do, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.errors import UnfitTarget
from vdbackup.jobs import Plan, Task, readable_size
from vdbackup.recovery.file_sets.choices import choice_of
from vdbackup.recovery.file_sets.outlook import Outlook, Outlooking, names_in, of_differing
from vdbackup.repository import checked
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.delta import Delta
from vdbackup.sources.file_sets.image import Image
from vdbackup.translation import grouped, tr, trn

ORIGIN = Path("/")
"""As a target: where the files came from."""


@dataclass(frozen=True)
class FilesRequest:
    """What is to be restored, and how.

    Attributes:
        repository: where the point is.
        set_name: the set that it belongs to.
        point_id: its id.
        target: a folder that stands for "/", which need not be there; ORIGIN is where the files
            came from.
        overwrite: replace what is there and differs; else it stays, and is named.
        ignore_damage: restore what is damaged as it is, and name it.
    """

    repository: Repository
    set_name: str
    point_id: str
    target: Path = ORIGIN
    overwrite: bool = False
    ignore_damage: bool = False


@dataclass(frozen=True, kw_only=True)
class FilesPlan(Plan):
    """What restoring chosen files would do.

    Attributes:
        request: what was asked for.
        choice: what the point is of.
        outlook: what is new, there already, and in the way.
    """

    request: FilesRequest
    choice: Choice
    outlook: Outlook


def plan(request: FilesRequest, task: Task) -> FilesPlan:
    """Look what restoring a point's files would do; nothing is written.

    Raises NotInPoint where the set is none of chosen files, UnfitTarget, Cancelled, and what
    opening the point raises.
    """
    backup_set = request.repository.set(request.set_name)
    point = backup_set.point(request.point_id)
    choice = choice_of(backup_set.settings, point)
    target = request.target
    if target.exists() and not target.is_dir():
        raise UnfitTarget(
            tr("{target} is not a folder.", target=target), tr("Choose one, or a new name.")
        )
    doing = tr("looking at the files of point {point}", point=point.sequence)
    task.phase(tr("Looking what is there"))
    with (
        checked.open_point(
            request.repository, request.set_name, point.id, doing,
            ignore_damage=request.ignore_damage,
        ) as disk,
        Delta(disk.size, disk) as delta,
        Image(delta) as image,
    ):  # fmt: skip
        outlook = Outlooking(image, target, choice, task).run()
    return FilesPlan(
        summary=" ".join((_what(point, choice, target, outlook), *_said(request, outlook))),
        bytes_to_copy=outlook.content,
        creates=tuple(f"{target}{path}".replace("//", "/") for path in choice.paths),
        replaces=tuple(_at(target, outlook.other.first)) if request.overwrite else (),
        request=request,
        choice=choice,
        outlook=outlook,
    )


def _what(point: RecoveryPoint, choice: Choice, target: Path, outlook: Outlook) -> str:
    to = tr("to where they came from") if target == ORIGIN else tr("to {target}", target=target)
    return tr(
        "The files of point {point} ({choice}) are restored {to}: {files}, {size}. Nothing is "
        "deleted.",
        point=point.sequence,
        choice=choice.title,
        to=to,
        files=trn("{count} file", "{count} files", outlook.files),
        size=readable_size(outlook.content),
    )


def _said(request: FilesRequest, outlook: Outlook) -> list[str]:
    """What is there already and what cannot be, a sentence each."""
    said = []
    if outlook.same:
        said.append(
            tr(
                "There with the same size and time, compared, and left alone where they are the "
                "same: {same}.",
                same=grouped(outlook.same),
            )
        )
    if outlook.other.count:
        said.append(of_differing(outlook.other, outlook.newer, overwrite=request.overwrite))
    named = {
        tr("These stay, as a folder stands where a file was, or the other way round"): (
            outlook.blocked
        ),
        tr("You may write nothing to these folders"): outlook.closed,
        tr("These are not in the point as they were captured, and are left out"): (
            outlook.unreadable
        ),
    }
    said += [f"{what}: {names_in(found)}." for what, found in named.items() if found.count]
    return [*said, *outlook.refused]


def _at(target: Path, paths: list[str]) -> list[str]:
    above = str(target).rstrip("/")
    return [f"{above}{path}" for path in paths]
