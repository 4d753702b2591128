"""The program as it is installed here, packed for a medium: its own files and its libraries.

Which libraries those are, each installed distribution says itself (importlib.metadata, PEP 508):
what is packed is what runs here and has been tested here, not what an index would give today.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.resources import files
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from vdbackup.errors import RescueMediumFailed
from vdbackup.jobs import Task
from vdbackup.rescue.contents import resource
from vdbackup.translation import tr

HOME = PurePosixPath("opt/vdbackup/lib")
"""Where the program and its libraries lie on the medium."""
PREPARE = PurePosixPath("opt/vdbackup/prepare")
_ITSELF = "vdbackup"
_OF_THE_WINDOW = {"pyqtgraph", "pyside6-essentials", "shiboken6"}
_NOT_NEEDED = (
    *("PySide6/Qt/qml", "PySide6/Qt/translations", "PySide6/Qt/metatypes", "PySide6/Qt/libexec"),
    *("PySide6/include", "PySide6/typesystems", "PySide6/glue", "PySide6/doc", "PySide6/scripts"),
    *("pyqtgraph/examples", "numpy/_core/include", "numpy/_core/lib"),
)
"""Half of Qt's files: for those who build with it."""
_NOT_NEEDED_NAMES = frozenset(
    {"assistant", "balsam", "balsamui", "designer", "linguist", "lrelease", "lupdate", "qmlformat"}
    | {"qmllint", "qmlls", "svgtoqml", "qsb"}
)
_NO_FOLDERS = {"__pycache__", "tests"}
_PROGRAMS = {"bin", "sbin", "lib"}
"""Folders of /usr/local: what lies there for root to run is a program."""

Files = Mapping[PurePosixPath, Path]
"""What lies where on the medium, without a leading slash, and which file here that is."""


def collect(*, window: bool) -> dict[PurePosixPath, Path]:
    """All files of the program, its libraries and the medium's own settings.

    Args:
        window: with what only the window needs.

    Raises:
        RescueMediumFailed: this installation does not say which libraries it has.
    """
    found: dict[PurePosixPath, Path] = {}
    for name, distribution in sorted(distributions(_ITSELF).items()):
        if name != _ITSELF and (window or name not in _OF_THE_WINDOW):
            found |= dict(_files_of(distribution))
    package = Path(str(files(_ITSELF)))
    found |= _tree(package, HOME / _ITSELF)
    found |= _tree(resource("prepare").parents[1], HOME / _ITSELF / "resources")
    found |= _tree(resource("root"), PurePosixPath())
    found[PREPARE] = resource("prepare")
    return found


def distributions(name: str) -> dict[str, metadata.Distribution]:
    """A distribution and all that it needs here, by their names in lower case with dashes."""
    found: dict[str, metadata.Distribution] = {}
    asked: set[tuple[str, str]] = set()
    left = [(name, "")]
    while left:
        of, extra = left.pop()
        key = canonicalize_name(of)
        if (key, extra) in asked:
            continue
        asked.add((key, extra))
        found[key] = distribution = _installed(of)
        for needed in _needed(distribution, extra):
            left += [(needed.name, each) for each in ("", *needed.extras)]
    return found


def _installed(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise RescueMediumFailed(
            tr(
                "This installation of vdbackup does not say where {name} is, which it needs.",
                name=name,
            ),
            tr("Install vdbackup with pip or packaging/run, and make the medium with that."),
        ) from None


def _needed(distribution: metadata.Distribution, extra: str) -> Iterator[Requirement]:
    """What a distribution needs on this system, with one of its extras or without ("")."""
    for line in distribution.requires or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            name = distribution.metadata["Name"]
            raise RescueMediumFailed(
                tr("What {name} needs cannot be understood: {line}.", name=name, line=line),
                tr("Install it anew."),
            ) from error
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _files_of(distribution: metadata.Distribution) -> Iterator[tuple[PurePosixPath, Path]]:
    """The files of a library that lie where Python looks for them."""
    if distribution.files is None:
        name = distribution.metadata["Name"]
        raise RescueMediumFailed(
            tr("This installation does not say which files {name} has.", name=name),
            tr("Install vdbackup with pip or packaging/run, and make the medium with that."),
        )
    for listed in distribution.files:
        path = Path(str(listed.locate()))
        if ".." not in listed.parts and _is_needed(PurePosixPath(listed)) and path.is_file():
            yield HOME / listed, path


def _is_needed(file: PurePosixPath) -> bool:
    if _NO_FOLDERS & set(file.parts) or file.suffix == ".pyi":
        return False
    if any(file.is_relative_to(each) for each in _NOT_NEEDED):
        return False
    return file.parts[0] != "PySide6" or file.name not in _NOT_NEEDED_NAMES


def _tree(folder: Path, place: PurePosixPath) -> dict[PurePosixPath, Path]:
    """All files below a folder."""
    found = {}
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - {"__pycache__"})
        for name in sorted(names):
            path = Path(where, name)
            found[place / path.relative_to(folder)] = path
    return found


def size_of(found: Files) -> int:
    """Bytes of all of the files."""
    return sum(path.stat().st_size for path in found.values())


def pack(found: Files, archive: Path, task: Task) -> None:
    """Write a tar archive of files as root's on the medium, readable for all.

    Raises OSError where one cannot be read, or the archive not be written.
    """
    total, done = size_of(found), 0
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        folders = {each for place in found for each in place.parents if each.name}
        for folder in sorted(folders - _there_already(folders)):
            tar.addfile(_member(folder, tarfile.DIRTYPE, 0o755))
        for place, path in sorted(found.items()):
            task.check()
            task.phase(tr("Collect the program"), done, total)
            data = path.read_bytes()
            done += len(data)
            member = _member(place, tarfile.REGTYPE, 0o755 if _is_program(place) else 0o644)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _there_already(folders: set[PurePosixPath]) -> set[PurePosixPath]:
    """Debian's own folders, whose owners and modes are its own matter."""
    return {each for each in folders if each.parts[0] in ("etc", "usr") and len(each.parts) < 4}


def _member(place: PurePosixPath, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(str(place))
    member.type, member.mode = kind, mode
    return member


def _is_program(place: PurePosixPath) -> bool:
    """Whether it is run by its name: a wheel and a checkout without modes have none to go by."""
    if place.parts[:2] == ("usr", "local") and place.suffix == "":
        return place.parts[2] in _PROGRAMS
    return False
