"""A file system of a backup, mounted by this computer's kernel, as root; never left, never emptied.

What is on it is hostile: no program of it is run, no device of it opened, no link of it followed
(mount(8)). What cannot be unmounted stays mounted and is said to be: a folder that something is
mounted at is only ever taken away by rmdir(2), which removes nothing that is in it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_CAUTION = "rw,nosuid,nodev,noexec,nosymfollow"
_OWN = {"xfs": ",nouuid"}
"""What it was backed up from may be mounted, and has the same UUID."""


@contextmanager
def mounted(
    device: Path | str, kind: str, run: Callable[..., object], options: str = ""
) -> Iterator[Path]:
    """Where a file system is mounted meanwhile.

    Args:
        device: that it lies on.
        kind: as mount(8) has it; nothing is guessed from what is on the device.
        run: runs a program by its arguments, and raises where that fails.
        options: of that kind, beside ours.
    """
    chosen = ",".join(filter(None, (_CAUTION + _OWN.get(kind, ""), options)))
    folder = Path(tempfile.mkdtemp(prefix="vdbackup-"))
    try:
        try:
            run("mount", "-t", kind, "-o", chosen, str(device), str(folder))
            yield folder
        finally:
            if folder.is_mount():  # also where we were stopped before mount(8) had said so
                run("umount", str(folder))
    finally:
        try:
            folder.rmdir()
        except OSError as error:
            log.warning("%s is left: %s", folder, error)
