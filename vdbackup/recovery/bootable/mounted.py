"""Writes files into the volumes of a disk that this computer has, as root, by mounting them.

The kernel replays what is left in their journals, and keeps each file's owner and mode. No link is
followed on what is mounted (kernel_mount.py): where a path leads was looked up before.
"""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vdbackup.agent.block_devices import SYS_BLOCK
from vdbackup.agent.stacking import number_of, numbers_on
from vdbackup.errors import NotRetargeted
from vdbackup.guest.model import FileSystem
from vdbackup.recovery import kernel_mount
from vdbackup.recovery.retarget.linux.appliance import Write, kind_of
from vdbackup.sources.inventory import partition_node
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_TOP = {"btrfs": "subvolid=5"}
"""Paths in a volume start at its top."""
_LOGICAL = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]*/[A-Za-z0-9_+][A-Za-z0-9_+.-]*")
"""What LVM calls a volume and its group (lvm(8), Valid names): no option, no other folder."""
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
            if ".." in each.path.split("/"):
                raise NotRetargeted(
                    tr("{which} is no path without detours.", which=printable(each.path))
                )
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
    for each in volumes:
        if each.logical and not _LOGICAL.fullmatch(each.logical):
            raise NotRetargeted(
                tr("{name} is no name of a logical volume.", name=printable(each.logical))
            )
    with ExitStack() as stack:
        groups = dict.fromkeys(each.logical.partition("/")[0] for each in volumes if each.logical)
        for group in groups:
            stack.enter_context(_active(disk, group))
        folders: dict[FileSystem, Path] = {}
        for each in dict.fromkeys(volumes):
            kind = kind_of(each)
            folders[each] = stack.enter_context(
                kernel_mount.mounted(device_of(disk, each), kind, _run, _TOP.get(kind, ""))
            )
        yield folders


def device_of(disk: Path, volume: FileSystem) -> Path:
    """The device of a volume; raises NotRetargeted where the kernel shows none."""
    if volume.logical:
        logical = Path("/dev") / volume.logical
        if number_of(str(logical)) not in numbers_on(disk):
            raise NotRetargeted(
                tr("The kernel does not show {name} of {disk}.", name=volume.logical, disk=disk),
                tr("Detach the disk that this one is a copy of, and try it again."),
            )
        return logical
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
    """A volume group whose parts lie on that disk alone: its original may be there, too.

    That has the same name and the same ids, and LVM would take what is active for what it is to
    activate: we would write to the original.
    """
    if other := _active_volume(group):
        raise NotRetargeted(
            tr("A volume group {group} is active already: {other}.", group=group, other=other),
            tr("Detach the disk that this one is a copy of, or start from a rescue medium."),
        )
    parts = [str(disk), *(str(node) for n in range(1, 129) if (node := partition_node(disk, n)))]
    only = ["--devices", ",".join(parts)]
    _run("vgchange", "--activate", "y", "--quiet", *only, group)
    try:
        yield
    finally:
        _run("vgchange", "--activate", "n", "--quiet", *only, group)


def _active_volume(group: str) -> str:
    """A volume of a group of that name, by its name in device-mapper; "" where none is active."""
    ours = re.compile(re.escape(group.replace("-", "--")) + "-(?!-).*")
    names = (file.read_text().strip() for file in SYS_BLOCK.glob("dm-*/dm/name"))
    return next(filter(ours.fullmatch, names), "")


def _run(*command: str) -> None:
    """Raise NotRetargeted where a program does not do what it was told to."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            process_group=0,  # Ctrl-C in our terminal is not for it: half of a change is worse
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
            tr("It says: {line}", line=printable(problem.splitlines()[-1])),
        )
