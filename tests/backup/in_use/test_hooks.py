"""Programs in a folder are told of each freeze and of its end, each as the user who owns it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.mounts import image
from tests.backup.in_use.devices import back_up, use
from tests.sources.loops import loop
from tests.sources.ordinary_user import NOBODY, as_an_ordinary_user, open_folder
from vdbackup.consistency import How
from vdbackup.errors import NotFrozen
from vdbackup.sources import hooks
from vdbackup.sources.moment import Wanted

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In which the programs are; whoever one runs as gets there, and may write beside it."""
    with open_folder() as above:
        folder = above / "freeze.d"
        folder.mkdir(mode=0o755)
        monkeypatch.setattr(hooks, "FOLDER", folder)
        yield folder


@pytest.fixture
def device(stack: ExitStack, tmp_path: Path) -> Path:
    """An ext4 in use."""
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 48, "ext4")))
    use(stack, device, tmp_path / "mount")
    return device


def hook(folder: Path, name: str, text: str, *, owner: int = 0, mode: int = 0o700) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{text}\n")
    os.chown(program, owner, owner)
    program.chmod(mode)
    return program


def test_each_is_told_before_and_after_as_its_owner(folder, device, repository):
    said = folder.parent / "said"
    said.touch()
    said.chmod(0o666)
    hook(folder, "1", f'echo "1 $1 $(id -u) $(id -G)" >> {said}')
    hook(folder, "2", f'echo "2 $1 $(id -u) $(id -G)" >> {said}', owner=NOBODY)
    made = back_up(repository, device, consistency=Wanted.FROZEN)
    assert made.warnings == ()
    root = " ".join(map(str, os.getgrouplist("root", 0)))
    once = [f"1 freeze 0 {root}", "2 freeze 65534 65534", "2 thaw 65534 65534", f"1 thaw 0 {root}"]
    assert said.read_text().splitlines() == once * made.point.reading.consistency.rounds


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ('[ "$1" = thaw ] || exit 3', {}, 'failed at "freeze" (status 3)'),
        ('[ "$1" = freeze ] || exit 3', {}, 'failed at "thaw" (status 3)'),
        ("true", {"mode": 0o722}, "others than its owner may change it"),
        ("true", {"mode": 0o600}, "no executable file"),
        ("sleep 600 & sleep 600", {}, "took longer than"),
    ],
)
def test_who_was_not_told_is_named(folder, monkeypatch, text, options, said):
    monkeypatch.setattr(hooks, "LIMIT", 0.5)
    program = hook(folder, "database", text, **options)
    with hooks.told() as failed:
        pass
    assert failed
    assert all(sentence.startswith(str(program)) for sentence in failed)
    assert said in failed[0]


def test_a_point_of_which_somebody_was_not_told_says_so_and_is_none_where_all_must_be(
    folder, device, repository
):
    program = hook(folder, "database", '[ "$1" = freeze ] || exit 3')
    made = back_up(repository, device)
    assert made.point.reading.consistency.how is How.FROZEN
    assert made.warnings == (f'{program} failed at "thaw" (status 3).',)
    with pytest.raises(NotFrozen, match="cannot be backed up as of one moment"):
        back_up(repository, device, consistency=Wanted.FROZEN)


def test_in_a_folder_that_others_may_write_to_nothing_is_run(tmp_path, folder):
    hook(folder, "1", f"touch {tmp_path}/run")
    folder.chmod(0o777)
    with hooks.told() as failed:
        pass
    assert "nothing in it is run" in failed[0]
    assert not (tmp_path / "run").exists()


def test_an_ordinary_user_runs_nobody_elses(folder):
    hook(folder, "1", "exit 3")
    with as_an_ordinary_user(), hooks.told() as failed:
        pass
    assert [str(folder / "1") in sentence for sentence in failed] == [True]
    assert "it is root's" in failed[0]


def test_a_link_is_not_followed(tmp_path, folder):
    target = hook(tmp_path, "elsewhere", "true")
    (folder / "1").symlink_to(target)
    with hooks.told() as failed:
        pass
    assert "no executable file" in failed[0]


def test_an_error_meanwhile_is_no_reason_to_leave_them_waiting(tmp_path, folder):
    hook(folder, "1", f"echo $1 >> {tmp_path}/said")
    with pytest.raises(OSError, match="gone"), hooks.told():
        raise OSError("gone")
    assert (tmp_path / "said").read_text() == "freeze\nthaw\n"


def test_on_a_full_disk_all_are_told_of_the_end(folder, monkeypatch):
    said = folder.parent / "said"
    for name in "12":
        hook(folder, name, f"echo {name} $1 >> {said}")

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with hooks.told() as failed:
        monkeypatch.setattr(hooks.tempfile, "TemporaryFile", full)
    assert failed == []
    assert said.read_text().splitlines() == ["1 freeze", "2 freeze", "2 thaw", "1 thaw"]


def test_without_a_folder_nobody_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "FOLDER", tmp_path / "none")
    with hooks.told() as failed:
        pass
    assert failed == []
