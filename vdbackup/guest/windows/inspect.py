r"""A Windows on an NTFS volume: which it is, from which disks it starts, and what is in the way.

Windows mounts its root by drivers that its loader has read from the disk before: services whose
Start is 0 ("boot start") and which no value below their StartOverride puts off again; since Windows
8 that is done to each one that the machine did not need during setup. Where they stand:
SYSTEM\Select says which control set is the current one, and its Services names them.

Sources: Microsoft, "CurrentControlSet\Services Subkeys" and "HKLM\SYSTEM\Select"; hiberfil.sys as
ntfs-3g tests it; the registry's format at the top of hive.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vdbackup.errors import RecoveryError
from vdbackup.guest.drivers import WINDOWS
from vdbackup.guest.model import Problem
from vdbackup.guest.tree import Tree
from vdbackup.guest.windows.hive import Hive, Key
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Unreadable, reading

log = logging.getLogger(__name__)

_MAX_HIVE = 1 << 30
_SYSTEM_ROOTS = ("Windows", "WINNT")
HIVES = "System32/config"
_CURRENT_VERSION = "Microsoft\\Windows NT\\CurrentVersion"
_ARCHITECTURES = {"amd64": "x86_64", "x86": "i386", "arm64": "aarch64"}
_MAX_NAME = 100
_FIRST_11 = 22000
"""The first build of Windows 11, which says in its registry that it were Windows 10."""
_STORAGE = frozenset().union(*(group for groups in WINDOWS.values() for group in groups))

HIBERNATED = Problem(
    tr(
        "Windows is hibernated, or was shut down with fast startup, which is the same for its "
        "disks: it would go on with the drivers of the machine that it was on."
    ),
    tr("Start it there, shut it down with: shutdown /s /t 0, and back it up again."),
)
UNCLEAN = Problem(
    tr(
        "The file system of Windows was not closed cleanly: Windows checks and repairs it when it "
        "starts, so nothing on it can be changed before."
    ),
    tr("Start it and shut it down once, or back it up again while it is shut down."),
    blocks=False,
)
DIRTY_REGISTRY = Problem(
    tr(
        "The registry of Windows is not up to date: its logs hold changes that Windows applies "
        "when it starts, so nothing in it can be changed before."
    ),
    tr("Start it and shut it down once, or back it up again while it is shut down."),
    blocks=False,
)


@dataclass(frozen=True)
class Windows:
    """What is known of a Windows.

    Attributes:
        name: "Windows 10 Pro".
        version: "10.0.19045"; "" if it is not known.
        system_root: the folder that it lies in, from the volume's root on.
        architecture: "x86_64", "i386" or "aarch64"; "" if it is not known.
        control_set: the current one, "ControlSet001".
        services: drivers of storage that it starts at boot, in lower case.
        inactive_services: those that are there and that it does not.
        problems: what forbids to boot it (`blocks`), or to change anything (all of them).
    """

    name: str
    version: str
    system_root: str
    architecture: str = ""
    control_set: str = ""
    services: tuple[str, ...] = ()
    inactive_services: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Service:
    """A driver as the registry starts it.

    Attributes:
        key: of the registry.
        start: its Start; 0 is at boot. None: it says none.
        overrides: what stands below StartOverride, by name.
        present: the file that it names is there.
    """

    key: Key
    start: int | None
    overrides: dict[str, int | None]
    present: bool

    @property
    def boots(self) -> bool:
        """Whether the loader loads it and Windows starts it."""
        return self.present and self.start == 0 and not any(self.overrides.values())


def inspect_windows(tree: Tree) -> Windows | None:
    """What is known of the Windows on a volume, None if there is none.

    What cannot be read is a problem, never an error.
    """
    system_root = find_system_root(tree)
    if system_root is None:
        return None
    name, version = _product(tree, system_root)
    plain = Windows(name, version, system_root)
    problems: list[Problem] = []
    try:
        problems += _volume_problems(tree)
        with reading(tr("The registry of Windows")):
            system = open_hive(tree, system_root, "SYSTEM")
            if system.dirty:
                problems.append(DIRTY_REGISTRY)
            control_set = current_control_set(system)
            architecture = _architecture(system, control_set)
            services = storage_services(tree, system_root, system, control_set)
    except RecoveryError as error:
        problems.append(Problem(error.title, tr("Boot it to see whether it starts."), blocks=False))
        return replace(plain, problems=tuple(problems))
    booting = {each for each, service in services.items() if service.boots}
    present = {each for each, service in services.items() if service.present}
    return replace(
        plain,
        architecture=architecture,
        control_set=control_set,
        services=tuple(sorted(booting)),
        inactive_services=tuple(sorted(present - booting)),
        problems=tuple(problems),
    )


def open_hive(tree: Tree, system_root: str, name: str) -> Hive:
    """A hive of the system's; raises Unreadable or whatever a node raises, so use `reading`."""
    node = tree.find(f"{system_root}/{HIVES}/{name}")
    if node is None:
        raise Unreadable(
            tr(
                "there is no {name} in {system_root}/{hives}",
                name=name,
                system_root=system_root,
                hives=HIVES,
            )
        )
    content = node.content()
    if content.size > _MAX_HIVE:
        raise Unreadable(tr("{name} is too large to be a part of the registry", name=name))
    written = content.ranges[-1][1] if content.ranges else 0
    return Hive(content.stream, written)


def current_control_set(system: Hive) -> str:
    """Its name; raises Unreadable."""
    select = system.find("Select")
    current = select.value("Current") if select is not None else None
    number = current.number if current is not None else None
    if number is None or not 0 < number < 1000:
        raise Unreadable(tr("it does not say which control set is the current one"))
    return f"ControlSet{number:03}"


def storage_services(
    tree: Tree, system_root: str, system: Hive, control_set: str
) -> dict[str, Service]:
    """Those for storage that the registry knows, by name; raises as `open_hive` does."""
    services = system.find(f"{control_set}\\Services")
    if services is None:
        raise Unreadable(tr("it has no services in {control_set}", control_set=control_set))
    found = {}
    for key in services.children():
        name = key.name.lower()
        if name in _STORAGE:
            found[name] = _service(tree, system_root, key)
    return found


def _service(tree: Tree, system_root: str, key: Key) -> Service:
    values = key.values()
    start = values["start"].number if "start" in values else None
    below = key.child("StartOverride")
    overrides = below.values() if below is not None else {}
    image = values["imagepath"].text if "imagepath" in values else ""
    path = _image_path(image, key.name, system_root)
    return Service(
        key=key,
        start=start,
        overrides={name: value.number for name, value in overrides.items()},
        present=tree.find(path) is not None,
    )


def _image_path(image: str, name: str, system_root: str) -> str:
    r"""A driver's file from the volume's root on: "\SystemRoot\System32\drivers\storahci.sys"."""
    path = image.replace("\\", "/").lstrip("/") or f"System32/drivers/{name}.sys"
    for prefix in ("systemroot/", "??/c:/", f"{system_root}/"):
        path = path[len(prefix) :] if path.casefold().startswith(prefix.casefold()) else path
    return f"{system_root}/{path}"


def find_system_root(tree: Tree) -> str | None:
    """The folder that Windows lies in; None if it lies in none."""
    for name in _SYSTEM_ROOTS:
        if tree.find(f"{name}/{HIVES}/SYSTEM") is not None:
            return name
    return None


def _volume_problems(tree: Tree) -> Iterator[Problem]:
    from vdbackup.volumes.filesystems.ntfs import NtfsNode  # a quarter of a second

    root = tree.find("/")
    if isinstance(root, NtfsNode):
        with reading("/hiberfil.sys"):
            if root.hibernated():
                yield HIBERNATED
        with reading(tr("The log of the file system")):
            if root.unclean():
                yield UNCLEAN


def _architecture(system: Hive, control_set: str) -> str:
    key = system.find(f"{control_set}\\Control\\Session Manager\\Environment")
    value = key.value("PROCESSOR_ARCHITECTURE") if key is not None else None
    return _ARCHITECTURES.get(value.text.lower(), "") if value is not None else ""


def _product(tree: Tree, system_root: str) -> tuple[str, str]:
    """Name and version, as far as they can be read: nothing depends on them."""
    try:
        with reading(tr("The registry's SOFTWARE")):
            key = open_hive(tree, system_root, "SOFTWARE").find(_CURRENT_VERSION)
            if key is None:
                return "Windows", ""
            values = key.values()
            texts = {name: value.text for name, value in values.items()}
            numbers = {name: value.number for name, value in values.items()}
    except RecoveryError as error:
        log.info("%s", error)
        return "Windows", ""
    name = printable(texts.get("productname", ""))[:_MAX_NAME] or "Windows"
    build = texts.get("currentbuild", "")
    build = build if build.isdecimal() and build.isascii() and len(build) < 8 else ""
    major, minor = (numbers.get(f"current{part}versionnumber") for part in ("major", "minor"))
    named = printable(texts.get("currentversion", ""))[:_MAX_NAME]
    kernel = named if major is None else f"{major}.{minor}"
    if build and int(build) >= _FIRST_11:
        name = name.replace("Windows 10", "Windows 11")
    return name, f"{kernel}.{build}" if kernel and build else ""
