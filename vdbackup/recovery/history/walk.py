"""All files of a disk, each volume's from its topmost folder on."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import NamedTuple

from vdbackup.errors import RecoveryError
from vdbackup.jobs import Task
from vdbackup.recovery.mount.tree import LONGEST_NAME
from vdbackup.recovery.tree_walk import is_name
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Kind, Node, Stat, guarded, reading
from vdbackup.volumes.places import Place
from vdbackup.volumes.volumes import Volumes


class Found(NamedTuple):
    """A file or folder: its path, which volume's it is and where on the disk, and what is known."""

    path: str
    place: Place
    node: Node
    stat: Stat


def files(volumes: Volumes, task: Task, warnings: list[str], below: str = "/") -> Iterator[Found]:
    """Everything below a folder of the disk, folders before what is in them; `below` itself, too.

    A volume that cannot be read is passed by in silence: it has no files. One that is encrypted is
    passed by with a warning, and so is what else cannot be read, or a folder that is met twice.

    Args:
        volumes: of the disk.
        task: what stops it.
        warnings: what is passed by is added here, a sentence each.
        below: where to begin; raises NotInPoint where there is no such folder.
    """
    wanted = [name for name in below.split("/") if name]
    for name, found in volumes.by_name.items():
        path = f"/{name}" if name else ""
        if name and wanted and wanted[0] != name:
            continue
        volume, root = volumes.open(name)
        place = replace(found, runs=volumes.runs(name))
        if volume.is_locked:
            warnings.append(volumes.refusal(name).title)
        if root is not None:
            inner = wanted[1:] if name else wanted
            yield from _below(place, path, root, inner, task, warnings)


def _below(
    place: Place, path: str, root: Node, wanted: list[str], task: Task, warnings: list[str]
) -> Iterator[Found]:
    """The files of a volume, those on the way to `wanted` and in it alone."""
    seen: set[Hashable] = set()
    waiting = [(path, root, wanted)]
    while waiting:
        task.check()
        path, node, wanted = waiting.pop()
        try:
            with reading(path or "/"):
                stat = node.stat()
        except RecoveryError as error:
            warnings.append(error.title)
            continue
        if not wanted:
            yield Found(path or "/", place, node, stat)
        if stat.kind is not Kind.FOLDER:
            continue
        if node.identity in seen:
            warnings.append(tr("{path} is passed by: it is also elsewhere in the tree.", path=path))
            continue
        seen.add(node.identity)
        waiting += _children(path, node, wanted, warnings)


def _children(
    path: str, folder: Node, wanted: list[str], warnings: list[str]
) -> list[tuple[str, Node, list[str]]]:
    """What of a folder is to be looked at, the last first."""
    found: dict[str, Node] = {}
    try:
        for child in guarded(folder, path or "/"):
            if is_name(child.name, LONGEST_NAME) and (not wanted or child.name == wanted[0]):
                found.setdefault(child.name, child)
    except RecoveryError as error:
        warnings.append(error.title)
    inner = wanted[1:]
    return [(f"{path}/{name}", found[name], inner) for name in sorted(found, reverse=True)]
