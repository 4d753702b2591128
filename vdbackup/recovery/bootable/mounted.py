"""Writes files into the volumes of a disk that this computer has, as root, by mounting them.

The kernel replays what is left in their journals, and keeps each file's owner and mode. No link is
followed on what is mounted (nosymfollow): where a path leads was looked up before.
"""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vdbackup.errors import NotRetargeted
from vdbackup.guest.model import FileSystem
from vdbackup.recovery.retarget.linux.appliance import Write, kind_of
from vdbackup.sources.inventory import partition_node
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_OPTIONS = "rw,nosuid,nodev,noexec,nosymfollow"
_OWN = {"btrfs": ",subvolid=5", "xfs": ",nouuid"}
"""Paths in a volume start at its top; and the disk that it was backed up from may be there, too."""
_PATIENCE = 120.0


def write(disk: Path, writes: Sequence[Write]) -> None:
    """Write files; durable on return.

    Args:
        disk: the device of the whole disk, no part of which is in use.
        writes: in this order.

    Raises:
        NotRetargeted: a volume cannot be mounted, or a file is not what it should be afterwards.
        OSError: a file cannot be written.
    """
    with mounted(disk, [each.volume for each in writes]) as folders:
        for each in writes:
            path = folders[each.volume] / each.path.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_bytes() if each.append else b""
            with path.open("ab" if each.append else "wb") as file:
                file.write(each.content)
            if path.read_bytes() != before + each.content:
                raise NotRetargeted(
                    tr("The file {which} is not what it should be.", which=each.path)
                )


@contextmanager
def mounted(disk: Path, volumes: Sequence[FileSystem]) -> Iterator[dict[FileSystem, Path]]:
    """Folders in which volumes of a disk are mounted, each once; raises NotRetargeted."""
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vdbackup-")))
        groups = dict.fromkeys(each.logical.partition("/")[0] for each in volumes if each.logical)
        for group in groups:
            stack.enter_context(_active(disk, group))
        folders: dict[FileSystem, Path] = {}
        for number, each in enumerate(dict.fromkeys(volumes)):
            folder = top / str(number)
            folder.mkdir()
            kind = kind_of(each)
            options = _OPTIONS + _OWN.get(kind, "")
            _run("mount", "-t", kind, "-o", options, str(device_of(disk, each)), str(folder))
            stack.callback(_run, "umount", str(folder))
            folders[each] = folder
        yield folders


def device_of(disk: Path, volume: FileSystem) -> Path:
    """The device of a volume; raises NotRetargeted where the kernel shows none."""
    if volume.logical:
        return Path("/dev") / volume.logical
    number = volume.volume.removeprefix("p")
    node = partition_node(disk, int(number)) if number else disk
    if node is None:
        raise NotRetargeted(
            tr("The kernel does not show partition {number} of {disk}.", number=number, disk=disk),
            tr("Let it read the table: partprobe {disk}", disk=disk),
        )
    return node


@contextmanager
def _active(disk: Path, group: str) -> Iterator[None]:
    """A volume group whose parts lie on that disk alone: its original may have the same name."""
    parts = [str(disk), *(str(node) for n in range(1, 129) if (node := partition_node(disk, n)))]
    only = ["--devices", ",".join(parts)]
    _run("vgchange", "--activate", "y", "--quiet", *only, group)
    try:
        yield
    finally:
        _run("vgchange", "--activate", "n", "--quiet", *only, group)


def _run(*command: str) -> None:
    """Raise NotRetargeted where a program does not do what it was told to."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
        problem = done.stderr.decode(errors="replace").strip() or tr(
            "it ended with {returncode}", returncode=done.returncode
        )
        problem = problem if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        log.warning("%s: %s", command, problem)
        raise NotRetargeted(
            tr(
                "{command} could not do what it takes to change files of the disk.",
                command=command[0],
            ),
            tr("It says: {line}", line=problem.splitlines()[-1]),
        )
