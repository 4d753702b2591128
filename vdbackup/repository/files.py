"""Files that are whole or not there: written beside, made durable, renamed into place."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from vdbackup.errors import NoSpace, RepositoryError
from vdbackup.jobs import readable_size
from vdbackup.repository.lock import check_lock

PARTIAL = ".partial"
"""What is in flight ends so, and is nobody's backup."""


def sync_folder(folder: Path) -> None:
    """Make renames, links and deletions in a folder durable (fsync(2): the file's own does not)."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make durable what was written to a file, its mode and its times."""
    _sync(path)


def _sync(path: Path, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file so that there is always the old one or the new one.

    Order: content, fsync, rename, fsync of the folder. Renaming first could leave an empty file.
    Raises LockLost, as `remove` does, where the repository is somebody else's by now.
    """
    partial = path.with_name(path.name + PARTIAL)
    check_lock(path)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        # names of files need not be text: what is none becomes \\udcXX, as JSON writes it
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(data, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(fd)
        check_lock(path)
        os.rename(partial, path)
    except OSError:
        remove(partial)
        raise
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises RepositoryError where it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeError is a ValueError
        raise RepositoryError(
            f"{path} is damaged: {error}.", "Run `vdbackup repair` to rebuild it from the disks."
        ) from error
    if not isinstance(data, dict):
        raise RepositoryError(
            f"{path} is damaged: it holds no JSON object.", "Run `vdbackup repair` to rebuild it."
        )
    return data


def check_room(folder: Path, needed: int, doing: str) -> None:
    """Raise NoSpace, with figures, unless the storage has so much room; asked before work starts.

    Args:
        folder: on the storage.
        needed: bytes that may be written there.
        doing: what needs them: "Merging point 3".
    """
    free = free_room(folder)
    if free is not None and free < needed:
        raise NoSpace(
            f"{doing} may need {readable_size(needed)}, and {folder} has "
            f"{readable_size(free)} free.",
            "Make room on the storage of the backups, then try again.",
        )


def free_room(folder: Path) -> int | None:
    """Bytes that are free on the storage; None where it does not say, as some on networks do."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None


def remove(path: Path) -> None:
    """Delete a file that may be gone already (a step that is done again after a crash)."""
    check_lock(path)
    path.unlink(missing_ok=True)
