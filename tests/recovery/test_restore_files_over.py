"""Chosen files are restored over what is there: only over what was shown, and whole or not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.recovery.chosen import as_restored, back_up, not_ones_own, planned, restore, restored
from tests.sources.loops import loop, run, unmount
from tests.sources.ordinary_user import NOBODY, as_an_ordinary_user, open_folder
from vdbackup.errors import Cancelled
from vdbackup.jobs import Progress, Task
from vdbackup.operations import restore_files
from vdbackup.recovery.file_sets import giving
from vdbackup.repository.repository import Repository


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "chosen"
    (folder / "inner").mkdir(parents=True)
    (folder / "letter").write_bytes(b"as it was")
    (folder / "inner" / "large").write_bytes(os.urandom(3_000_000))
    for number in range(20):
        (folder / "inner" / f"small {number:02}").write_bytes(b"%d" % number * 500)
    (folder / "inner").chmod(0o750)
    return folder


def partials(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names if ".partial" in name]


def test_a_plan_says_what_is_new_what_stays_and_what_is_replaced(folder: Path):
    repository = back_up(folder)
    (folder / "letter").write_bytes(b"much newer")
    (folder / "inner" / "small 03").unlink()
    before = as_restored(folder)
    plan = planned(repository, overwrite=True)
    outlook = plan.outlook
    assert (outlook.files, outlook.new, outlook.same) == (22, 1, 20)
    assert outlook.other.first == outlook.newer.first == [f"{folder}/letter"]
    assert plan.replaces == (f"{folder}/letter",)
    assert "Different there, and replaced: 1; changed later than what is in the point: 1." in (
        plan.summary
    )
    assert planned(repository).replaces == ()
    assert "and left as they are: 1;" in planned(repository).summary
    assert as_restored(folder) == before
    assert partials(folder) == []


def test_a_name_that_means_another_kind_of_file_is_said_before(folder: Path):
    repository = back_up(folder)
    (folder / "letter").unlink()
    (folder / "letter").mkdir()
    plan = planned(repository, overwrite=True)
    assert plan.outlook.blocked.first == [f"{folder}/letter"]
    assert restore(repository, overwrite=True) == (
        f"Something is there already under these names, and stays: {folder}/letter.",
    )


def test_what_came_after_it_was_planned_is_not_replaced(folder: Path):
    repository = back_up(folder)
    (folder / "letter").unlink()
    plan = planned(repository, overwrite=True)
    (folder / "letter").write_bytes(b"of somebody else")
    done = restore_files.run(plan, Task())
    assert done.warnings == (
        f"These have come or changed since it was planned, and stay: {folder}/letter.",
    )
    assert (folder / "letter").read_bytes() == b"of somebody else"


def test_what_has_changed_since_it_was_planned_is_not_replaced(folder: Path):
    repository = back_up(folder)
    (folder / "letter").write_bytes(b"changed once")
    plan = planned(repository, overwrite=True)
    (folder / "letter").write_bytes(b"changed again")
    (said,) = restore_files.run(plan, Task()).warnings
    assert said.startswith("These have come or changed since")
    assert (folder / "letter").read_bytes() == b"changed again"


@pytest.mark.parametrize("had_one", [False, True])
def test_what_comes_while_a_file_is_written_is_not_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, had_one: bool
):
    """At the last moment: it is whole, and about to get its name."""
    repository = back_up(folder)
    (folder / "letter").write_bytes(b"changed once") if had_one else (folder / "letter").unlink()
    plan = planned(repository, overwrite=True)
    describe = giving.describe

    def then_come(*arguments: Any) -> bool:
        (folder / "letter").write_bytes(b"of somebody else")
        return describe(*arguments)

    monkeypatch.setattr("vdbackup.recovery.file_sets.restoring.describe", then_come)
    (said,) = restore_files.run(plan, Task()).warnings
    assert said.startswith("These have come or changed since")
    assert (folder / "letter").read_bytes() == b"of somebody else"
    assert partials(folder) == []


@pytest.mark.usefixtures("as_root")
def test_a_folder_that_takes_a_new_one_s_place_gets_nobody_s_rights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    for each in (folder, folder / "inner"):
        os.chown(each, 1234, 1234)
    repository = back_up(folder)
    shutil.rmtree(folder / "inner")
    secret = folder / "kept of root"
    secret.mkdir(mode=0o700)
    (secret / "file").write_bytes(b"secret")
    plan = planned(repository)
    mkdir = os.mkdir

    def and_then(name: bytes, mode: int = 0o777, **how: int) -> None:
        mkdir(name, mode, **how)
        if name == b"inner":  # whose the folder above is may do that
            secret.rename(folder / "inner")

    monkeypatch.setattr(os, "mkdir", and_then)
    restore_files.run(plan, Task())
    found = (folder / "inner").stat()
    assert (found.st_uid, found.st_mode & 0o7777) == (0, 0o700)


def test_what_is_there_as_it_was_is_not_written_again(folder: Path):
    repository = back_up(folder)
    numbers = {path: path.lstat().st_ino for path in folder.rglob("*")}
    for overwrite in (False, True):
        done = restored(repository, overwrite=overwrite)
        assert (done.files, done.content, done.same, done.warnings) == (0, 0, 22, ())
    assert {path: path.lstat().st_ino for path in folder.rglob("*")} == numbers


def test_other_bytes_of_the_same_length_and_time_are_replaced(folder: Path):
    before = as_restored(folder)
    repository = back_up(folder)
    large = folder / "inner" / "large"
    times = (large.stat().st_atime_ns, large.stat().st_mtime_ns)
    with large.open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"a bit that has fallen")
    os.utime(large, ns=times)
    assert restore(repository) == (
        f"Something is there already under these names, and stays: {large}.",
    )
    done = restored(repository, overwrite=True)
    assert (done.files, done.content) == (1, 3_000_000)
    assert as_restored(folder) == before


@pytest.mark.parametrize("change", ["permissions", "attributes", "another name"])
def test_what_differs_in_what_belongs_to_a_file_alone_is_restored(folder: Path, change: str):
    before = as_restored(folder)
    repository = back_up(folder)
    letter = folder / "letter"
    if change == "permissions":
        letter.chmod(0o600)
    elif change == "attributes":
        os.setxattr(letter, "user.new", b"1")
    else:
        os.link(letter, folder.parent / "another name")
    assert restored(repository, overwrite=True).files == 1
    assert as_restored(folder) == before


def cut_off(after: int) -> Task:
    """A task that is cancelled once so many bytes are written."""
    task = Task()

    def report(progress: Progress) -> None:
        if progress.phase == "Restoring" and progress.done >= after:
            task.cancel.cancel()

    return Task(report, task.cancel)


def test_what_was_cancelled_leaves_whole_files_and_goes_on_from_there(folder: Path, tmp_path: Path):
    before = as_restored(folder)
    repository = back_up(folder)
    target = tmp_path / "back"
    back = Path(f"{target}{folder}")
    with pytest.raises(Cancelled) as cancelled:
        restore_files.run(planned(repository, target), cut_off(1_500_000))
    assert "it goes on from there" in cancelled.value.left
    assert partials(target) == []
    assert (back / "inner").stat().st_mode & 0o7777 == 0o750
    with pytest.raises(Cancelled):
        restore_files.run(planned(repository, target), cut_off(3_000_000 + 600))
    done = {path.name for path in back.rglob("*") if path.is_file()}
    assert "large" in done
    last = restored(repository, target)
    assert last.same == len(done) > 0
    assert last.warnings == ()
    assert as_restored(back) == before


SLOWLY = """
import os, sys
from pathlib import Path
from vdbackup.jobs import Task
from vdbackup.operations import restore_files
from vdbackup.repository.repository import Repository

pwrite = os.pwrite
def slow(fd, view, place):
    if place:
        print("written", flush=True)
        sys.stdin.read()
    return pwrite(fd, view, place)
os.pwrite = slow
repository = Repository.open(Path(sys.argv[1]))
point = repository.set().points[-1]
request = restore_files.FilesRequest(repository, repository.set().name, point.id, Path(sys.argv[2]))
restore_files.run(restore_files.plan(request, Task()), Task())
"""


def test_what_was_killed_is_swept_and_finished_by_the_next(folder: Path, tmp_path: Path):
    before = as_restored(folder)
    repository = back_up(folder)
    target = tmp_path / "back"
    command = [sys.executable, "-c", SLOWLY, str(repository.path), str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        assert len(partials(target)) == 1
        restored(repository, tmp_path / "beside")  # nobody waits for another restore
        child.send_signal(signal.SIGKILL)
    (target / "somebody's own.partial").touch()
    assert restore(repository, target) == not_ones_own(folder)
    assert partials(target) == ["somebody's own.partial"]
    assert as_restored(Path(f"{target}{folder}")) == before


def test_what_another_restore_is_writing_is_not_swept(folder: Path, tmp_path: Path):
    repository = back_up(folder)
    target = tmp_path / "back"
    command = [sys.executable, "-c", SLOWLY, str(repository.path), str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        assert restore(repository, target) == not_ones_own(folder)
        assert len(partials(target)) == 1
        child.kill()


@pytest.mark.usefixtures("as_root")
def test_who_is_not_root_is_told_before_what_cannot_come_back_and_gets_the_rest():
    with open_folder() as place:
        folder = place / "chosen"
        (folder / "inner").mkdir(parents=True)
        for name in ("mine", "also mine"):
            (folder / name).write_bytes(b"mine")
            os.chown(folder / name, NOBODY, 0)
        for path in (folder, folder / "inner"):
            os.chown(path, NOBODY, 0)
        (folder / "another's").write_bytes(b"another's")
        os.chown(folder / "another's", 4321, 4321)
        (folder / "another's").chmod(0o4755)
        os.mknod(folder / "device", 0o020600, os.makedev(1, 3))
        os.chown(folder / "device", NOBODY, 0)
        os.setxattr(folder / "mine", "trusted.t", b"1")
        repository = back_up(folder)
        for path in [repository.path, *repository.path.rglob("*")]:
            os.chown(path, NOBODY, 0)
        with as_an_ordinary_user():
            plan = planned(Repository.open(repository.path), place / "back")
            done = restore_files.run(plan, Task())
        assert sorted(each.partition(":")[2] for each in plan.outlook.refused) == [
            " capabilities and attributes that only root may give (1).",
            " devices: only root can make them (1).",
            " owners: who is not root gets them as their own (3).",  # two folders lead there
        ]
        refused, described = sorted(done.warnings, reverse=True)
        assert refused == f"These could not be made there: {folder}/device."
        assert described == (
            "Owners or attributes of these could not be restored: "
            f"{folder}/another's, {folder}/mine, {place}, /tmp."
        )
        back = Path(f"{place}/back{folder}")
        assert (back / "another's").stat().st_mode & 0o7777 == 0o755
        assert (back / "mine").read_bytes() == b"mine"
        assert partials(back) == []


@pytest.mark.usefixtures("as_root")
def test_rights_of_an_owner_are_given_to_nobody_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    os.chown(folder / "letter", 4321, 4321)
    (folder / "letter").chmod(0o6755)
    repository = back_up(folder)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    assert restore(repository, tmp_path / "back") != ()
    back = Path(f"{tmp_path}/back{folder}/letter")
    assert back.stat().st_mode & 0o7777 == 0o755


@pytest.mark.usefixtures("as_root")
def test_a_file_system_without_links_or_attributes_gets_the_files_and_says_what_is_missing(
    folder: Path, tmp_path: Path
):
    os.setxattr(folder / "letter", "user.a", b"1")
    os.link(folder / "letter", folder / "second")
    (folder / "link").symlink_to("letter")
    repository = back_up(folder)
    image, target = tmp_path / "exfat.img", tmp_path / "exfat"
    image.touch()
    os.truncate(image, 64 << 20)
    run("mkfs.exfat", image)
    target.mkdir()
    with loop(image) as device:
        run("mount.exfat-fuse", device, target)
        try:
            check_what_comes_back(repository, folder, target)
        finally:
            unmount(target)


def check_what_comes_back(repository: Repository, folder: Path, target: Path) -> None:
    assert any("no place" in each for each in planned(repository, target).outlook.refused)
    said = restore(repository, target)
    back = Path(f"{target}{folder}")
    assert (back / "letter").read_bytes() == (back / "second").read_bytes() == b"as it was"
    assert any(f"could not be made there: {folder}/link" in each for each in said)
    assert partials(target) == []
    (back / "letter").write_bytes(b"other")
    restore(repository, target, overwrite=True)
    assert (back / "letter").read_bytes() == b"as it was"


def test_what_is_planned_can_be_given_up(folder: Path):
    repository = back_up(folder)
    point = repository.set().points[-1]
    task = Task()
    task.cancel.cancel()
    request = restore_files.FilesRequest(repository, repository.set().name, point.id)
    with pytest.raises(Cancelled):
        restore_files.plan(request, task)
