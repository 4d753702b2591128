"""Which folders of this computer show a point, and whether anybody still answers for each.

The process behind a folder stands in what mount(8) calls it. Where that was killed, the helper of
libfuse unmounts, but for once in a while: then the folder stays, and answers "Transport endpoint is
not connected". A folder whose process is there is not asked: one whose storage does not answer
keeps whoever asks waiting. Source: proc(5), mountinfo.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vdbackup.processes import start_of
from vdbackup.repository.mount_points import unescaped

TYPE = "vdbackup"
"""What mount(8) shows such a folder as: fuse.vdbackup."""
DEVICE = Path("/dev/fuse")
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Shown:
    """A folder that shows a point, or did.

    Attributes:
        where: the folder.
        point: the set and the number of the point, "disk#3".
        process: behind it; 0 where that cannot be told.
    """

    where: Path
    point: str
    process: int

    @property
    def is_dead(self) -> bool:
        """Whether nobody answers there.

        Only where its process is not found is the folder asked: that may be one whom we do not see
        (hidepid of /proc, a container), and who answers.
        """
        return not self._is_process_behind and _answers_nobody(self.where)

    @property
    def _is_process_behind(self) -> bool:
        """Whether the process is there, and its number is not another one's by now."""
        if start_of(self.process) is None:
            return False
        files = Path(f"/proc/{self.process}/fd")
        try:
            numbers = list(files.iterdir())
        except PermissionError:  # another user's, who alone could tell
            return True
        except OSError:  # it ends just now
            return False
        for each in numbers:
            with suppress(OSError):
                if os.readlink(each) == str(DEVICE):
                    return True
        return False


def _answers_nobody(where: Path) -> bool:
    """Whether the connection behind a folder is gone.

    Of another user's folder the kernel says neither, and gives zeros (fuse_statfs): of those root
    believes what the processes show, who sees them all.
    """
    try:
        return os.statvfs(where).f_bsize == 0 and os.geteuid() == 0
    except OSError as error:
        return error.errno == errno.ENOTCONN


def shown() -> list[Shown]:
    """All of them, the one on top last where several lie on one folder."""
    found = []
    for line in _MOUNTS.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        kind, source, *_ = after.split(b" ")
        if kind == f"fuse.{TYPE}".encode():
            point, _, number = unescaped(source).rpartition("@")
            process = int(number) if number.isdecimal() else 0
            found.append(Shown(Path(unescaped(before.split(b" ")[4])), point, process))
    return found


def shown_at(where: Path) -> Shown | None:
    """What a folder shows, which is named as the kernel does; None if it shows no point."""
    wanted = os.fsencode(where)
    return next((each for each in reversed(shown()) if os.fsencode(each.where) == wanted), None)
