"""Whether a source stayed as it was while it was read, and who may have more of it in memory.

What a point holds is the source as it was at one moment; where that cannot be, the point says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from vdbackup.agent.stacking import is_mounted_writable, mounts_of
from vdbackup.agent.writeback import write_out_caches
from vdbackup.disks import qemu_locks
from vdbackup.disks.holders import Holder, holders, named
from vdbackup.disks.host_file import HostFile
from vdbackup.jobs import readable_size
from vdbackup.sources.device_writes import DeviceWrites
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_MAX_NAMED = 5
"""Files of a chain that a sentence names."""


class Changes:
    """Looks after what a source is read from, beginning now.

    Args:
        path: the device or image.
        files: what it is read from, open; their state is that of when they were opened.
    """

    def __init__(self, path: Path, files: Sequence[HostFile]) -> None:
        self._path, self._files = path, tuple(files)
        self._mounts = mounts_of(path)
        self._writable = bool(self._mounts) and is_mounted_writable(path)
        self._writes = DeviceWrites(path) if path.is_block_device() else None
        self._writers = self._who_may_write()

    def sentences(self) -> tuple[str, ...]:
        """What the user must know of what was read until now, a sentence each."""
        changed = self._of_device(self._writes) if self._writes else self._of_files()
        return tuple(dict.fromkeys(filter(None, (changed, *self.writers()))))

    def writers(self) -> tuple[str, ...]:
        """A sentence for each file that others have, or had in the beginning, open for writing."""
        return tuple(dict.fromkeys((*self._writers, *self._who_may_write())))

    def _of_device(self, writes: DeviceWrites) -> str:
        write_out_caches(self._path)  # what was written to the device's own cache counts from here
        written = writes.since()
        if self._mounts:
            return self._of_mounted(written)
        if written is None:
            return tr(
                "Whether {path} was written to during the capture cannot be told: the kernel "
                "does not count it.",
                path=self._path,
            )
        if not written:
            return ""
        return tr(
            "{path} was written to during the capture ({size}): this point may mix old and new.",
            path=self._path,
            size=readable_size(written),
        )

    def _of_mounted(self, written: int | None) -> str:
        """What is said of a file system in use; None where it is not known how much it wrote."""
        used = tr(
            "{path} was in use (mounted at {mounts})",
            path=self._path,
            mounts=", ".join(self._mounts),
        )
        if written == 0:
            if not self._writable:
                return ""
            return tr(
                "{used}, but nothing was written to it during the capture: this point is what "
                "a power cut would have left.",
                used=used,
            )
        amount = tr(", and written to ({size})", size=readable_size(written)) if written else ""
        return tr(
            "{used}{amount}: files that were written during the capture may be incomplete in "
            "this point.",
            used=used,
            amount=amount,
        )

    def _of_files(self) -> str:
        changed = [str(file.path) for file in self._files if file.was_changed]
        if self._mounts:
            return self._of_mounted(None if changed else 0)
        if not changed:
            return ""
        more = len(changed) - _MAX_NAMED
        names = ", ".join(changed[:_MAX_NAMED]) + (
            tr(" and {more} more", more=more) if more > 0 else ""
        )
        was = tr("was") if len(changed) == 1 else tr("were")
        return tr(
            "{names} {was} written to during the capture: this point may mix old and new.",
            names=names,
            was=was,
        )

    def _who_may_write(self) -> tuple[str, ...]:
        """A sentence for each file that another program has open for writing."""
        paths = [file.path for file in self._files]
        writers = [holder for holder in holders(paths) if holder.writes]
        if self._mounts:  # through a loop device, of which its mount tells more
            writers = [holder for holder in writers if holder.pid is not None]
        return tuple(
            sentence for path in paths if (sentence := _open_for_writing(path, writers)) is not None
        )


def _open_for_writing(path: Path, writers: Sequence[Holder]) -> str | None:
    mine = [holder for holder in writers if holder.path == path]
    if not mine and not _is_locked(path):
        return None
    who = named(mine) if mine else tr("a virtual machine")  # another user's
    return tr(
        "{path} is open for writing in {who}: what that has not written to the file yet is "
        "missing in this point, and old and new may be mixed.",
        path=path,
        who=who,
    )


def _is_locked(path: Path) -> bool:
    try:
        return qemu_locks.is_open_for_writing(path)
    except OSError as error:  # it has just gone: that is said where it is read
        log.debug("%s cannot be asked for locks: %s", path, error)
        return False
