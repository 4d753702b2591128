"""Another program's machine that cannot learn its layers' new names: the work is done, with 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.noise import noise
from vdbackup.backup import merge
from vdbackup.disks.formats import open_disk
from vdbackup.errors import Remedy, SessionUnusable
from vdbackup.jobs import Task
from vdbackup.recovery import relinking
from vdbackup.repository.repository import Repository


@pytest.fixture
def session(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, no_tools: None
) -> dict[str, str]:
    """VirtualBox's machine on the newest point, whose overlay is not any more what it was."""
    made: dict[str, str] = vdbackup(
        "open-with", "virtualbox", "latest", "-r", repository, "--json"
    ).json
    backup_set = Repository.open(repository).set()
    path = backup_set.overlay_path(backup_set.points[-1])
    overlay = open_disk(path, backup_set.settings.format, writable=True)
    overlay.write(0, memoryview(noise(65536, 1)))
    overlay.flush()
    overlay.close()
    return made


def commands(disk: Path) -> dict[str, tuple[object, ...]]:
    return {"merge": ("merge", 2), "delete": ("delete", 1), "backup": ("backup", disk)}


@pytest.mark.parametrize("name", ["merge", "delete", "backup", "repair", "list"])
def test_what_is_done_is_done_and_the_machine_that_stays_behind_is_named(
    vdbackup: Vdbackup, session: dict[str, str], repository: Path, disk: Path, name: str
) -> None:
    if name not in ("merge", "delete"):  # nobody else will merge
        found = Repository.open(repository)
        merge.run(merge.plan(found, "laptop", found.set().points[1].id), Task())
    before = len(Repository.open(repository).set().points)
    said = vdbackup(*commands(disk).get(name, (name,)), "-r", repository)
    sentence = f"The machine of the session {session['session']} in VirtualBox names layers"
    assert said.err.count(sentence) == 1
    assert "Put the overlay back as it was, or discard the session." in said.err
    assert said.status == (0 if name == "list" else 3)  # a list is whole all the same
    more = {"merge": -1, "delete": -1, "backup": 1}.get(name, 0)
    assert len(Repository.open(repository).set().points) == before + more
    assert vdbackup("verify", "-r", repository).status == 0


@pytest.mark.parametrize("name", ["merge", "delete", "repair"])
def test_what_this_program_can_do_about_it_is_said_by_its_command(
    vdbackup: Vdbackup,
    session: dict[str, str],
    repository: Path,
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    def refuse(*_: object) -> None:
        raise SessionUnusable("It fits no more.", "End it.", remedy=Remedy.END_SESSION, about="x1")

    monkeypatch.setattr(relinking, "relink_all", refuse)
    said = vdbackup(*commands(disk).get(name, (name,)), "-r", repository)
    assert said.status == 3
    assert "It fits no more. End it. `vdbackup sessions discard x1` or" in said.err


def test_what_was_left_behind_before_is_said_once(
    vdbackup: Vdbackup, session: dict[str, str], repository: Path
) -> None:
    """The command looks for it at its beginning and, having merged itself, at its end."""
    assert vdbackup("merge", 2, "-r", repository).status == 3
    said = vdbackup("delete", 2, "-r", repository)
    assert said.err.count(f"The machine of the session {session['session']}") == 1
