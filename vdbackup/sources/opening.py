"""Opening a source: each kind of reference has its own way, and so has each kind of file."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from vdbackup.agent import client
from vdbackup.agent.writeback import write_out
from vdbackup.disks.chain import Chain
from vdbackup.disks.contents import decide
from vdbackup.disks.descriptors import open_to_read
from vdbackup.disks.device_reads import sector_size_of
from vdbackup.disks.disk import SECTOR
from vdbackup.disks.granted import granted
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import NotADisk, Remedy, SourceNotFound, SourceNotOpened, SourceNotPermitted
from vdbackup.sources import udisks
from vdbackup.sources.devices import device_id
from vdbackup.sources.disk_source import DiskSource
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.source import FileSetSource
from vdbackup.sources.reference import Scheme, SourceRef, unknown
from vdbackup.sources.source import Source
from vdbackup.translation import tr


@dataclass(frozen=True)
class HintsOfFiles:
    """What helps to open chosen files.

    Attributes:
        size: bytes of the disk that the points before have; None where there are none.
        apart: folders that do not belong to them, wherever they lie: the repository.
        reads_all: whether what has not changed is to be read, too.
        of_one_moment: whether snapshots are to be made of what they lie on, where that can be.
    """

    size: int | None = None
    apart: Sequence[Path] = ()
    reads_all: bool = False
    of_one_moment: bool = True


@dataclass(frozen=True)
class Hints:
    """What helps to open a source, such as one that is a virtual disk, or may be one.

    Attributes:
        parents_in: folders besides its own in which its parents may lie.
        said: what it is, "raw" or a format, where the user says so; else its name and its content
            decide (disks/contents.py).
        before: what the user said when it was backed up last.
        of_files: what helps where it is chosen files.
    """

    parents_in: Sequence[Path] = ()
    said: str | None = None
    before: str | None = None
    of_files: HintsOfFiles = field(default_factory=HintsOfFiles)


def open_source(ref: SourceRef, hints: Hints = Hints()) -> Source:
    """Open what a reference names, by its kind.

    Raises:
        SourceError: it cannot be read, or no such kind is known; says what would help. DiskError:
        it is not a valid disk; UnclearFormat where the user has to say what it is.
    """
    if (opener := _KINDS.get(ref.scheme)) is None:
        raise unknown(ref)
    return opener(ref, hints)


def open_file(ref: SourceRef, hints: Hints = Hints()) -> DiskSource:
    """Open an image or a block device; raises what `open_source` does."""
    path, kind = ref.path, 0
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind not in _FILES:
            what = tr("a folder, not a disk") if kind == stat.S_IFDIR else _NO_DISK
            raise NotADisk(
                tr("{path} is {what}.", path=path, what=what),
                tr("Give a disk image or a block device."),
            )
        write_out(path)
        return _opened(path, kind, hints)
    except FileNotFoundError:
        raise SourceNotFound(
            tr("There is no {path}.", path=path), tr("Check the path."), remedy=Remedy.LIST_DEVICES
        ) from None
    except PermissionError:
        remedy = Remedy.INSTALL_AGENT if kind == stat.S_IFBLK else None
        advice = _permission_advice(path)
        raise SourceNotPermitted(
            tr("You may not read {path}.", path=path), advice, remedy=remedy
        ) from None
    except OSError as error:
        raise SourceNotOpened(
            tr("{path} cannot be opened: {reason}.", path=path, reason=error.strerror),
            tr("Check that the device is connected."),
        ) from error


def _opened(path: Path, kind: int, hints: Hints) -> DiskSource:
    """A device that this user may not read is asked for, where there is somebody to ask."""
    try:
        return _FILES[kind](path, hints)
    except PermissionError:
        if kind != stat.S_IFBLK or (grant := _asked_for(path)) is None:
            raise
    fd, let_go = grant
    with ExitStack() as stack:
        stack.callback(let_go)
        stack.enter_context(granted(fd))
        source = _FILES[kind](path, hints)
        source.take(stack.pop_all())
        return source


def _asked_for(path: Path) -> tuple[int, Callable[[], None]] | None:
    """A device's descriptor by our agent, or else by UDisks, and what lets go of who gave it."""
    if (grant := client.opened(path)) is not None:
        return grant
    fd = udisks.opened(path)
    return None if fd is None else (fd, lambda: None)


def _open_image(path: Path, hints: Hints) -> DiskSource:
    _check_not_empty(path, path.stat().st_size)
    decision = decide(path, hints.said, hints.before)
    if decision.disk_format == DiskFormat.RAW:
        _check_size(path, path.stat().st_size)
    chain = Chain.open(path, decision.disk_format, hints.parents_in)
    try:
        source_id, said = f"file:{path.resolve()}", hints.said or hints.before
        return DiskSource(source_id, path, chain, chain.sector_size, said, decision.doubt)
    except BaseException:  # it was there a moment ago
        chain.close()
        raise


def _open_device(path: Path, hints: Hints) -> DiskSource:
    decision = decide(path, hints.said, hints.before)
    chain = Chain.open(path, decision.disk_format, hints.parents_in)
    try:
        _check_size(path, chain.size)
        sector_size = chain.sector_size
        if decision.disk_format == DiskFormat.RAW:
            with open(open_to_read(path), "rb", buffering=0) as device:
                sector_size = sector_size_of(device.fileno())
        return DiskSource(device_id(path), path, chain, sector_size, hints.said or hints.before)
    except BaseException:
        chain.close()
        raise


def open_files(ref: SourceRef, hints: Hints = Hints()) -> Source:
    """Open chosen files; raises SourceNotFound where there is nothing of them."""
    of_files = hints.of_files
    choice = Choice.typed(ref.rest)
    return FileSetSource(
        choice,
        of_files.size,
        of_files.apart,
        reads_all=of_files.reads_all,
        of_one_moment=of_files.of_one_moment,
    )


_KINDS: dict[str, Callable[[SourceRef, Hints], Source]] = {
    Scheme.FILE: open_file,
    Scheme.FILES: open_files,
}
"""How each kind of source is opened."""

_FILES: dict[int, Callable[[Path, Hints], DiskSource]] = {
    stat.S_IFREG: _open_image,
    stat.S_IFBLK: _open_device,
}
"""How each kind of file is; in which format it is, its name and content say (disks/contents.py)."""

_NO_DISK = tr("neither a file nor a block device")


def _check_not_empty(path: Path, size: int) -> None:
    if size == 0:
        raise NotADisk(
            tr("{path} is empty.", path=path),
            tr("Give a disk image or a block device with contents."),
        )


def _check_size(path: Path, size: int) -> None:
    _check_not_empty(path, size)
    if size < SECTOR:
        raise NotADisk(
            tr(
                "{path} is {size} bytes long, less than one sector of {sector} bytes.",
                path=path,
                size=size,
                sector=SECTOR,
            ),
            tr("Give a disk image or a block device."),
        )


def _permission_advice(path: Path) -> str:
    """Lets this user read it, and nothing else: a group that owns disks may read all of them."""
    if not os.access(path.parent, os.X_OK):
        return tr("The folder {parent} does not let you in; ask its owner.", parent=path.parent)
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # in a container it may have no name
        user = str(os.geteuid())
    until = tr(" (until the next restart)") if path.is_block_device() else ""
    command = shlex.join(("sudo", "setfacl", "-m", f"u:{user}:r", str(path)))
    return tr("Allow it with `{command}`{until}.", command=command, until=until)
