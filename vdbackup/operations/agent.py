"""Installing the agent, the one program that runs as root, and removing it.

What is installed is a copy of the few files that it needs, in a folder of root's: nothing that an
ordinary user may write to, a checkout or an environment, is ever run as root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from vdbackup import durable
from vdbackup.agent import activation, connection
from vdbackup.errors import AgentFailed, AgentIncomplete, NeedsRoot, from_os
from vdbackup.jobs import Plan, Task
from vdbackup.translation import tr

HOME = connection.PROGRAM.parent
_POLICY = Path("/usr/share/polkit-1/actions/org.vdbackup.vdbackup.policy")
_UNITS = Path("/etc/systemd/system")
_RESOURCES = {
    "vdbackup-agent": connection.PROGRAM,
    "org.vdbackup.vdbackup.policy": _POLICY,
    "vdbackup-agent.socket": _UNITS / "vdbackup-agent.socket",
    "vdbackup-agent@.service": _UNITS / "vdbackup-agent@.service",
}
"""Of resources/agent, and where each goes."""
_COMMON = ("__init__.py", "durable.py", "processes.py", "records.py", "translation.py")
"""Of what stands beside the rooms."""
_ROOMS = ("agent", "errors")
_OF_CLIENTS = {"activation.py", "client.py", "connection.py", "logged.py"}
"""In the agent's room, but not for root."""
_PACKAGE = Path(str(files("vdbackup")))
_FOLDERS = (_PACKAGE / "resources", _PACKAGE.parent / "resources")


@dataclass(frozen=True)
class AgentPlan(Plan):
    """What would be installed, or removed.

    Attributes:
        root: of the system that is meant: "/", or a folder in which one is put together.
    """

    root: Path = Path("/")


@dataclass(frozen=True)
class AgentResult:
    """What was done.

    Attributes:
        files: that were written, or removed.
        listens: whether systemd starts it for whoever asks; else pkexec has to.
    """

    files: tuple[Path, ...]
    listens: bool = False


def plan_install(root: Path = Path("/")) -> AgentPlan:
    """What would be written; raises AgentError where it cannot be."""
    _check_may(root)
    there = [_under(root, place) for place in _contents()]
    return AgentPlan(
        tr(
            "Install the program that does for users what only root may do to disks: {under}.",
            under=_under(root, connection.PROGRAM),
        ),
        creates=tuple(str(each) for each in there if not each.exists()),
        replaces=tuple(str(each) for each in there if each.exists()),
        root=root,
    )


def install(plan: AgentPlan, task: Task) -> AgentResult:
    """Write it, and have systemd listen for clients.

    Raises AgentError; StorageError where it cannot be written.
    """
    _check_may(plan.root)
    if _is_this_system(plan.root) and not activation.python_fits():
        raise AgentFailed(
            tr(
                "{python} is missing, or older than {names}: the program that runs as root needs "
                "it.",
                python=activation.PYTHON,
                names=".".join(map(str, activation.NEEDED)),
            ),
            tr("Back up volumes in use as root, which needs no such program."),
        )
    _remove(plan.root, task)  # what an earlier version had, and this one does not
    contents = _contents()
    for place, data in contents.items():
        task.check()
        _write(_under(plan.root, place), data, 0o755 if place == connection.PROGRAM else 0o644)
    listens = _is_this_system(plan.root) and activation.listen()
    return AgentResult(tuple(_under(plan.root, each) for each in contents), listens)


def plan_remove(root: Path = Path("/")) -> AgentPlan:
    """What would be removed; raises AgentError where it cannot be."""
    _check_may(root)
    return AgentPlan(
        tr("Remove the program that does for users what only root may do to disks."),
        replaces=tuple(map(str, _installed(root))),
        root=root,
    )


def remove(plan: AgentPlan, task: Task) -> AgentResult:
    """Remove it, and all that was installed with it; whoever it serves now, it serves to the end.

    Raises AgentError; StorageError where it cannot be removed.
    """
    _check_may(plan.root)
    if _is_this_system(plan.root):
        activation.listen_no_more()
    gone = _remove(plan.root, task)
    if _is_this_system(plan.root):
        activation.forget()
    return AgentResult(gone)


def _check_may(root: Path) -> None:
    if _is_this_system(root) and os.geteuid():
        raise NeedsRoot(
            tr("Only root may install or remove a program that runs as root."), tr("Do it as root.")
        )


def _is_this_system(root: Path) -> bool:
    return os.path.realpath(root) == "/"


def _under(root: Path, place: Path) -> Path:
    return root / place.relative_to("/")


def _contents() -> dict[Path, bytes]:
    """All that is installed, the program itself last: until then nothing is run."""
    package = {HOME / "vdbackup" / name: (_PACKAGE / name).read_bytes() for name in _COMMON}
    rooms = {
        HOME / "vdbackup" / room / file.name: file.read_bytes()
        for room in _ROOMS
        for file in sorted((_PACKAGE / room).glob("*.py"))
        if file.name not in _OF_CLIENTS
    }
    return package | rooms | dict(_resources())


def _resources() -> Iterator[tuple[Path, bytes]]:
    for name, place in reversed(_RESOURCES.items()):
        found = next(
            (each / "agent" / name for each in _FOLDERS if (each / "agent").is_dir()), None
        )
        if found is None:
            raise AgentIncomplete(
                tr("{name} is missing in this installation.", name=name),
                tr("Install vdbackup anew."),
            )
        yield place, found.read_bytes()


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        _make_folders(path.parent)
        path.unlink(missing_ok=True)  # whose it was is no matter: it becomes root's
        durable.replace(path, data)
        path.chmod(mode)
    except OSError as error:
        raise from_os(error) from error


def _make_folders(folder: Path) -> None:
    """As root's, whatever the umask is."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def _installed(root: Path) -> list[Path]:
    """The files that are there, the program first: nobody starts it any more."""
    home = _under(root, HOME)
    known = [_under(root, place) for place in _RESOURCES.values()]
    there = [each for each in known if os.path.lexists(each)]
    inside = sorted(each for each in home.rglob("*") if not each.is_dir() or each.is_symlink())
    return list(dict.fromkeys([*there, *inside]))


def _remove(root: Path, task: Task) -> tuple[Path, ...]:
    task.check()
    gone = _installed(root)
    home = _under(root, HOME)
    try:
        for file in gone:
            file.unlink(missing_ok=True)
        folders = [each for each in home.rglob("*") if each.is_dir()]
        for folder in [*sorted(folders, reverse=True), home]:
            with suppress(FileNotFoundError):
                folder.rmdir()
    except OSError as error:
        raise from_os(error) from error
    return tuple(gone)
