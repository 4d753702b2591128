r"""Make a Windows start from another controller: changes in its registry, and drivers it lacks.

There are two ways onto the disk, and each has what the other has not:

- A driver that Windows has needs two numbers: Start, and what stands below StartOverride. Four
  bytes each, and they lie in the file SYSTEM at known places, and that file in known clusters: they
  are written there, into the overlay itself. No process runs and no structure of NTFS or of the
  registry changes, so nothing can be left half done. (Deleting StartOverride, as others do, would
  move cells; a zero in it means the same.)
- New keys and new files need space. The hive is taken out, changed by hivexsh and put back by
  ntfscp, beside the driver's files, into the partition as a plain file (export.py), on a scratch
  disk that becomes the overlay.

Both refuse a Windows that is hibernated, encrypted, or was not shut down: what is on its disk then
is not what it will go on with.

What stays as it is: the disk's signature and the identities of its partitions. Windows' boot
configuration finds its partition by them, and MountedDevices its letters, so that another one
would not boot; they say nothing to the network, and the original's disk is not seen by the machine.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import NoDriver, NotRetargeted, ProgramMissing, Remedy
from vdbackup.guest.disk import Disk
from vdbackup.guest.drivers import WINDOWS
from vdbackup.guest.hardware import Controller
from vdbackup.guest.model import FileSystem
from vdbackup.guest.tree import Tree
from vdbackup.guest.windows.hive import Hive, Key
from vdbackup.guest.windows.inspect import (
    HIVES,
    Service,
    Windows,
    inspect_windows,
    open_hive,
    storage_services,
)
from vdbackup.jobs import CancelToken
from vdbackup.qemu import qemu
from vdbackup.recovery.exporting import above, exported
from vdbackup.recovery.retarget.windows import hive_edit
from vdbackup.recovery.retarget.windows.drivers import (
    DRIVERS,
    DriverFiles,
    critical_keys,
    find_driver,
    package_keys,
    service_keys,
)
from vdbackup.recovery.retarget.windows.hive_edit import KeyEdit, NumberEdit
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Unreadable, reading

log = logging.getLogger(__name__)

KEEPS_IDENTITY = tr(
    "The disk keeps its signature: Windows finds what it boots from by it, and its drive letters."
)
"""For a report: what else changes a disk's identity must not do so here."""

COPY = "ntfscp"
_ADMINISTRATORS = ":/usr/sbin:/sbin"
"""Where Debian has it, and an ordinary user does not look."""
_LIMIT = 120.0
"""Seconds that ntfscp may take for a file."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Change:
    """What becomes of a file, for a person: its path from the volume's root on, and texts."""

    path: str
    before: str
    after: str


@dataclass(frozen=True)
class WindowsEdits:
    """What is to be done to a Windows.

    Attributes:
        hive: SYSTEM, from the volume's root on, as its names are spelled there.
        numbers: to be changed in it.
        patches: the same where they lie on the disk: by its bytes' numbers. Empty where the hive is
            replaced.
        keys: to be made or filled in it.
        copies: files of ours, and where they go.
        changes: all of that, for a person; empty where there is nothing to be done.
        services: the drivers that start at boot then and find the disk.
    """

    hive: str
    numbers: tuple[NumberEdit, ...] = ()
    patches: Mapping[int, bytes] = field(default_factory=dict)
    keys: tuple[KeyEdit, ...] = ()
    copies: tuple[tuple[Path, str], ...] = ()
    changes: tuple[Change, ...] = ()
    services: tuple[str, ...] = ()

    @property
    def needs_tools(self) -> bool:
        """Whether numbers in their places do not do."""
        return bool(self.keys or self.copies)


def plan_windows(
    tree: Tree, volume: FileSystem, controller: Controller, drivers: Path | None = None
) -> WindowsEdits:
    """What makes a Windows start from a controller. Reads only.

    Args:
        tree: the files of its volume.
        volume: where that lies.
        controller: what it is to find its disk on.
        drivers: a folder with drivers that it does not have.

    Raises:
        RecoveryError: it may not be changed as it is, or has no driver for the controller.
    """
    windows = inspect_windows(tree)
    if windows is None:
        raise NotRetargeted(
            tr("There is no Windows on this volume."), tr("Look for it on another one.")
        )
    if windows.problems:
        problem = windows.problems[0]
        raise NotRetargeted(problem.sentence, problem.advice)
    with reading(tr("The registry of Windows")):
        system = open_hive(tree, windows.system_root, "SYSTEM")
        services = storage_services(tree, windows.system_root, system, windows.control_set)
        files = None
        names = _services(windows, controller)
        if not names:
            files = _new_driver(windows, controller, drivers)
            names = (files.name,)
        known = {name: services[name] for name in names if name in services}
        numbers = tuple(_numbers(known, windows.control_set, new=files is not None))
        wanted = list(_wanted_keys(system, windows.control_set, names, controller, files))
        keys = tuple(hive_edit.missing(system, wanted))
        hive = _spelled(tree, f"{windows.system_root}/{HIVES}/SYSTEM")
        copies = tuple(_copies(tree, windows.system_root, files)) if files else ()
        patches = {} if keys or copies else dict(_patches(tree, volume, hive, numbers))
        changes = (*_hive_change(hive, system, numbers, keys), *_copied(copies))
    return WindowsEdits(hive, numbers, patches, keys, copies, changes, names)


@contextmanager
def edited(
    edits: WindowsEdits,
    chain: Chain,
    disk_format: DiskFormat,
    volume: FileSystem,
    cancel: CancelToken,
) -> Iterator[Path]:
    """A scratch disk (qcow2) above a chain with the edits done by tools; gone afterwards.

    Args:
        edits: from `plan_windows`, which `needs_tools`.
        chain: the disk as it is.
        disk_format: of the chain.
        volume: where Windows lies on it.
        cancel: looked at before each file.

    Raises:
        RecoveryError: a program is missing or fails.
        Cancelled: on request.
    """
    with tempfile.TemporaryDirectory(prefix="vdbackup-") as own:  # some MiB at most
        folder = Path(own)
        backing = qemu.Backing.of(folder, chain, disk_format)
        scratch = folder / "scratch.qcow2"
        qemu.create_session_disk(scratch, backing, chain.size)
        (run,) = volume.runs
        with exported(above(scratch, backing), run.offset, run.length, folder) as part:
            put(edits, Disk(chain).trees[volume.volume], part, folder, cancel)
        yield scratch


def put(edits: WindowsEdits, tree: Tree, part: Path, folder: Path, cancel: CancelToken) -> None:
    """Do the edits by tools.

    Args:
        edits: from `plan_windows`, which `needs_tools`.
        tree: the files of its volume, as they are.
        part: that volume as a file or device.
        folder: takes the hive meanwhile.
        cancel: looked at before each file.

    Raises as `edited` does.
    """
    hive = folder / "SYSTEM"
    _take_out(tree, edits.hive, hive)
    hive_edit.change(hive, edits.numbers, edits.keys)
    for source, path in (*edits.copies, (hive, edits.hive)):
        cancel.check()
        _copy_in(part, source, path)


def check_starts(tree: Tree, controller: Controller) -> None:
    """Raise RecoveryError where a Windows that was edited does not start from that controller."""
    found = inspect_windows(tree)
    services = set(found.services) if found is not None else set()
    if not any(group <= services for group in WINDOWS.get(controller, ())):
        raise NotRetargeted(
            tr("Windows is not what it should be after it was changed."),
            tr("The overlay is as it was. Choose hardware that needs no changes."),
        )


# ---------------------------------------------------------------------------------------- plan


def _services(windows: Windows, controller: Controller) -> tuple[str, ...]:
    """Those that Windows has and needs for a controller; none if it has not all of them."""
    there = {*windows.services, *windows.inactive_services}
    groups = WINDOWS.get(controller, ())
    return next((tuple(sorted(group)) for group in groups if group <= there), ())


def _new_driver(windows: Windows, controller: Controller, drivers: Path | None) -> DriverFiles:
    if controller not in DRIVERS:
        raise NoDriver(
            tr(
                "{windows} has no driver for a disk on {controller}.",
                windows=windows.name,
                controller=controller,
            ),
            tr("Choose another controller; the report of the point names those that it has."),
        )
    if drivers is None:
        raise NoDriver(
            tr(
                "{windows} has no driver for a disk on {controller}.",
                windows=windows.name,
                controller=controller,
            ),
            tr("Choose ahci, or give it virtio-win's drivers."),
            remedy=Remedy.GIVE_DRIVERS,
        )
    return find_driver(drivers, DRIVERS[controller][0], windows)


def _spelled(tree: Tree, path: str) -> str:
    """A path as its names are spelled on the volume, without the first slash: ntfscp wants that."""
    return (tree.real_path(path) or path).lstrip("/")


def _numbers(services: dict[str, Service], control_set: str, *, new: bool) -> Iterator[NumberEdit]:
    """What has to become 0; a new driver's Start is one of the values that are set anyway."""
    for service in services.values():
        path = f"{control_set}\\Services\\{service.key.name}"
        if not new:
            yield from _to_zero(service.key, path, ("start",))
        below = service.key.child("StartOverride")
        if below is not None:
            yield from _to_zero(below, f"{path}\\{below.name}", tuple(below.values()))


def _to_zero(key: Key, path: str, names: Sequence[str]) -> Iterator[NumberEdit]:
    for value in (value for name, value in key.values().items() if name in names):
        if value.number is None or value.place is None:
            raise Unreadable(
                tr("the value {name} of {path} is not a number", name=value.name, path=path)
            )
        if value.number:
            yield NumberEdit(path, value.name, value.place, value.number, 0)


def _wanted_keys(
    system: Hive,
    control_set: str,
    names: Sequence[str],
    controller: Controller,
    files: DriverFiles | None,
) -> Iterator[KeyEdit]:
    modern = system.find("DriverDatabase") is not None
    if files is not None:
        yield service_keys(files.name, control_set)
        if modern:
            yield from package_keys(files.name, DRIVERS[controller][1])
    if not modern:
        for name in names:
            yield from critical_keys(name, control_set)


def _copies(tree: Tree, system_root: str, files: DriverFiles) -> Iterator[tuple[Path, str]]:
    """The driver where its service looks, and all of it where Windows looks for new devices'."""
    loaded = _spelled(tree, f"{system_root}/System32/drivers")
    package = _spelled(tree, f"{system_root}/INF")
    yield files.program, f"{loaded}/{files.name}.sys"
    if files.others and tree.find(package) is not None:
        for path in (files.program, *files.others):
            yield path, f"{package}/{path.name.lower()}"


def _patches(
    tree: Tree, volume: FileSystem, hive: str, numbers: Sequence[NumberEdit]
) -> Iterator[tuple[int, bytes]]:
    node = tree.find(hive)
    from vdbackup.volumes.filesystems.ntfs import NtfsNode

    if not isinstance(node, NtfsNode) or len(volume.runs) != 1:
        raise Unreadable(tr("it does not lie on an NTFS in one piece"))
    (run,) = volume.runs
    places = node.places()
    for edit in numbers:
        for first, offset, length in places:
            if first <= edit.place and edit.place + 4 <= first + length:
                at = offset + edit.place - first
                if at + 4 > run.length:
                    raise Unreadable(tr("it lies beyond the end of its volume"))
                yield run.offset + at, edit.after.to_bytes(4, "little")
                break
        else:
            raise Unreadable(tr("its place on the disk is not known"))


def _hive_change(
    hive: str, system: Hive, numbers: Sequence[NumberEdit], keys: Sequence[KeyEdit]
) -> Iterator[Change]:
    before, after = [], []
    for number in numbers:
        before.append(f"{number.path}\\{number.name} = {number.before}")
        after.append(f"{number.path}\\{number.name} = {number.after}")
    for edit in keys:
        key = system.find(edit.path)
        there = key.values() if key is not None else {}
        for name, data in edit.values.items():
            where = f"{edit.path}\\{name or '(Default)'}"
            after.append(f"{where} = {hive_edit.shown(data.kind, data.data)}")
            if old := there.get(name.lower()):
                before.append(f"{where} = {hive_edit.shown(old.kind, old.data)}")
    if after:
        yield Change(hive, "\n".join(before), "\n".join(after))


def _copied(copies: Sequence[tuple[Path, str]]) -> Iterator[Change]:
    for source, path in copies:
        yield Change(path, "", tr("copied from {source}", source=source))


# ---------------------------------------------------------------------------------------- edit


def _take_out(tree: Tree, path: str, destination: Path) -> None:
    node = tree.find(path)
    with reading(path), destination.open("xb") as file:
        if node is None:
            raise Unreadable(tr("it is not there"))
        content = node.content()
        file.truncate(content.size)
        for first, end in content.ranges:
            content.stream.seek(first)
            file.seek(first)
            for at in range(first, end, _CHUNK):
                file.write(content.stream.read(min(_CHUNK, end - at)))


def _copy_in(volume: Path, source: Path, path: str) -> None:
    program = shutil.which(COPY, path=os.environ.get("PATH", os.defpath) + _ADMINISTRATORS)
    if program is None:
        raise ProgramMissing(
            tr("Files cannot be put onto the disk of Windows: {copy} is not installed.", copy=COPY),
            tr("Install it with: sudo apt install ntfs-3g"),
        )
    try:
        done = subprocess.run(
            [program, "--quiet", str(volume), str(source), path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT,
            check=False,
            process_group=0,  # Ctrl-C in our terminal is not for it
        )
    except subprocess.TimeoutExpired:
        raise NotRetargeted(
            tr("{path} could not be put onto the disk of Windows in time.", path=path)
        ) from None
    if done.returncode:
        log.info("ntfscp: %s", done.stderr.decode(errors="replace"))
        raise NotRetargeted(
            tr("{path} could not be put onto the disk of Windows.", path=path),
            tr("Choose hardware that Windows has drivers for; the log says what ntfscp said."),
        )
