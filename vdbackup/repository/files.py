"""A repository's records, and space for what is written to it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from vdbackup import durable
from vdbackup.durable import (
    MAX_RECORD,
    PARTIAL,
    free_space,
    largest_file,
    read_own,
    sync_file,
    sync_folder,
)
from vdbackup.errors import (
    DamagedMetadata,
    FileTooLarge,
    NoSpace,
    RecordTooLong,
    Remedy,
    too_large_advice,
)
from vdbackup.jobs import readable_size
from vdbackup.repository.lock import check_lock
from vdbackup.translation import tr

__all__ = [
    "PARTIAL",
    "check_file_size",
    "check_space",
    "free_space",
    "made_beside",
    "parse_json",
    "read_json",
    "remove",
    "sync_file",
    "sync_folder",
    "write_file",
    "write_json",
    "write_json_in_flight",
]


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file so that there is always the old one or the new one (durable.replace).

    Raises LockLost, as `remove` does, where the repository is somebody else's by now;
    RepositoryError where it would be too long to be read back.
    """
    write_file(path, _encoded(path, data))


def write_json_in_flight(path: Path, data: dict[str, Any]) -> None:
    """Write what a JSON file will hold, durable but for its name in flight; raises as write_json.

    Whoever renames it makes the folder durable before and after.
    """
    durable.write_in_flight(path, _encoded(path, data), partial(check_lock, path))


def _encoded(path: Path, data: dict[str, Any]) -> bytes:
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    # names of files need not be text: what is none becomes \\udcXX, as JSON writes it
    encoded = text.encode("utf-8", errors="backslashreplace")
    if len(encoded) > MAX_RECORD:
        raise RecordTooLong(
            tr(
                "{path} would become {size} long, too long to be read again.",
                path=path,
                size=readable_size(len(encoded)),
            ),
            tr("Nothing was changed; the log says more."),
        )
    return encoded


def write_file(path: Path, data: bytes) -> None:
    """Write a small file of a repository, as `write_json` does."""
    durable.replace(path, data, partial(check_lock, path))


def made_beside(path: Path) -> AbstractContextManager[Path]:
    """A name beside a repository's file, as `durable.made_beside`; raises LockLost, too."""
    return durable.made_beside(path, partial(check_lock, path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises RepositoryError where it is none, or no ordinary file; FileNotFoundError where there is
    nothing of that name.
    """
    return parse_json(path, read_own(path))


def parse_json(path: Path | str, content: bytes) -> dict[str, Any]:
    """The JSON object that a file's content is; raises RepositoryError where it is none."""
    try:
        data = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeError is a ValueError
        raise DamagedMetadata(
            tr("{path} is damaged: {error}.", path=path, error=error),
            tr("It can be rebuilt from the disks."),
            remedy=Remedy.REPAIR,
        ) from error
    if not isinstance(data, dict):
        raise DamagedMetadata(
            tr("{path} is damaged: it holds no JSON object.", path=path),
            tr("It can be rebuilt from the disks."),
            remedy=Remedy.REPAIR,
        )
    return data


def check_space(folder: Path, needed: int, doing: str) -> None:
    """Raise NoSpace, with figures, unless the storage has so much space; asked before work starts.

    Args:
        folder: on the storage.
        needed: bytes that may be written there.
        doing: what needs them: "Merging point 3".
    """
    free = free_space(folder)
    if free is not None and free < needed:
        raise NoSpace(
            tr(
                "{doing} may need {size}, and {folder} has {size_2} free.",
                doing=doing,
                size=readable_size(needed),
                folder=folder,
                size_2=readable_size(free),
            ),
            tr("Free some space there, then try again."),
        )


def check_file_size(beside: Path, size: int, doing: str) -> None:
    """Raise FileTooLarge, with figures, unless a file can be so large; asked before work starts.

    Args:
        beside: one of our own files on the same storage.
        size: bytes that it may have.
        doing: what makes it so large: "Merging point 3".
    """
    most = largest_file(beside)
    if size > most:
        raise FileTooLarge(
            tr(
                "{doing} may make a file of {size}, and {folder} lies on storage that takes none "
                "larger than {most}.",
                doing=doing,
                size=readable_size(size),
                folder=beside.parent,
                most=readable_size(most),
            ),
            too_large_advice(),
        )


def remove(path: Path) -> None:
    """Delete a file that may be gone already (a step that is done again after a crash)."""
    check_lock(path)
    durable.remove(path)
