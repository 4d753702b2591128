"""Files go back to where they came from, on a file system that is mounted and in use."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.mounts import image
from tests.recovery.in_use import Running, nothing_of_ours, running
from tests.sources.loops import loop, mounted, run
from vdbackup.backup import capture
from vdbackup.errors import Cancelled, NotInPoint, UnfitTarget
from vdbackup.jobs import CancelToken, Task, silent
from vdbackup.operations import backup
from vdbackup.recovery import put_back
from vdbackup.sources.reference import SourceRef

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def system(request: pytest.FixtureRequest, stack: ExitStack, tmp_path: Path) -> Running:
    return running(stack, tmp_path, request.param)


@pytest.fixture
def ext4(stack: ExitStack, tmp_path: Path) -> Running:
    return running(stack, tmp_path, "ext4")


def test_what_is_gone_comes_back_with_all_that_it_had(system: Running):
    before = (system.folder / "docs/letter").stat()
    deep = (system.folder / "docs/inner/deep").read_bytes()
    shutil.rmtree(system.folder / "docs")
    done = system.put_back("/docs")
    assert (done.files, done.same) == (4, 0)
    assert all("its log was not applied" in sentence for sentence in done.warnings)
    after = (system.folder / "docs/letter").stat()
    assert (system.folder / "docs/letter").read_text() == "as it was"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, 1234, 5678)
    assert after.st_mtime_ns == before.st_mtime_ns
    assert os.getxattr(system.folder / "docs/letter", "user.note") == b"kept"
    assert (system.folder / "docs/inner/deep").read_bytes() == deep
    assert (system.folder / "docs/link").readlink() == Path("letter")
    assert nothing_of_ours(system.folder)


def test_what_is_there_stays_unless_it_is_said_and_nothing_else_goes(ext4: Running):
    (ext4.folder / "docs/letter").write_text("newer than the point")
    (ext4.folder / "docs/mine").write_text("not in the point")
    plan = ext4.plan("/docs")
    assert (plan.files, plan.same, plan.other, plan.newer) == (4, 3, 1, 1)
    assert plan.replaces == ()
    assert plan.bytes_to_copy == 0
    done = put_back.run(plan, Task())
    assert done.files == 0
    assert any("stays" in sentence and "docs/letter" in sentence for sentence in done.warnings)
    assert (ext4.folder / "docs/letter").read_text() == "newer than the point"
    plan = ext4.plan("/docs", overwrite=True)
    assert plan.replaces == (str(ext4.folder / "docs/letter"),)
    assert plan.bytes_to_copy == len("as it was")
    done = put_back.run(plan, Task())
    assert (done.files, done.same) == (1, 3)
    assert (ext4.folder / "docs/letter").read_text() == "as it was"
    assert (ext4.folder / "docs/mine").read_text() == "not in the point"


def test_a_program_that_has_the_old_file_open_keeps_it(ext4: Running):
    (ext4.folder / "docs/letter").write_text("open")
    with (ext4.folder / "docs/letter").open() as file:
        ext4.put_back("/docs/letter", overwrite=True)
        assert file.read() == "open"
    assert (ext4.folder / "docs/letter").read_text() == "as it was"


def test_what_came_or_changed_after_the_plan_is_not_replaced(ext4: Running):
    (ext4.folder / "docs/same").unlink()
    (ext4.folder / "docs/letter").write_text("when it was planned")
    plan = ext4.plan("/docs", overwrite=True)
    (ext4.folder / "docs/same").write_text("came since")
    (ext4.folder / "docs/letter").write_text("changed since, once more")
    done = put_back.run(plan, Task())
    assert any("since it was planned" in sentence for sentence in done.warnings)
    assert (ext4.folder / "docs/same").read_text() == "came since"
    assert (ext4.folder / "docs/letter").read_text() == "changed since, once more"


def test_no_link_leads_elsewhere(ext4: Running, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(ext4.folder / "docs")
    (ext4.folder / "docs").symlink_to(outside)
    done = ext4.put_back("/docs", overwrite=True)
    assert any("folder stands where a file was" in sentence for sentence in done.warnings)
    with pytest.raises(UnfitTarget, match="not there any more"):
        ext4.plan("/docs/letter", overwrite=True)
    assert os.listdir(outside) == []


def test_a_link_that_takes_a_folder_s_place_during_it_leads_nowhere(
    ext4: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    outside = tmp_path / "outside"
    outside.mkdir()
    (ext4.folder / "docs/inner/deep").unlink()
    plan = ext4.plan("/docs")
    extract = put_back.extract

    def and_then(*arguments: object) -> tuple[str, ...]:
        said = extract(*arguments)  # type: ignore[arg-type]
        (ext4.folder / "docs/inner").rmdir()
        (ext4.folder / "docs/inner").symlink_to(outside)
        return said

    monkeypatch.setattr(put_back, "extract", and_then)
    put_back.run(plan, Task())
    assert os.listdir(outside) == []
    assert nothing_of_ours(ext4.folder)


def test_another_file_system_that_is_mounted_there_is_not_written_to(
    ext4: Running, stack: ExitStack, tmp_path: Path
):
    other = stack.enter_context(loop(image(tmp_path / "other.img", 32, "ext4")))
    stack.enter_context(mounted(other, ext4.folder / "docs/inner"))
    done = ext4.put_back("/docs", overwrite=True)
    assert not (ext4.folder / "docs/inner/deep").exists()
    assert any("docs/inner" in sentence for sentence in done.warnings)
    with pytest.raises(UnfitTarget, match="Another file system is mounted"):
        ext4.plan("/docs/inner/deep")


def test_copies_of_a_disk_are_not_guessed_between(ext4: Running, stack: ExitStack, tmp_path: Path):
    shutil.copyfile(tmp_path / "disk.img", tmp_path / "copy.img")
    copy = stack.enter_context(loop(tmp_path / "copy.img"))
    (tmp_path / "copied").mkdir()
    stack.enter_context(mounted(copy, tmp_path / "copied"))
    with pytest.raises(UnfitTarget, match="copies of each other") as caught:
        ext4.plan("/docs")
    assert str(ext4.device) in caught.value.title
    assert str(copy) in caught.value.title


def test_what_is_not_mounted_or_only_for_reading_is_refused(ext4: Running):
    run("mount", "-o", "remount,ro", ext4.folder)
    with pytest.raises(UnfitTarget, match="reading only"):
        ext4.plan("/docs")
    run("umount", ext4.folder)
    try:
        with pytest.raises(UnfitTarget, match="not mounted"):
            ext4.plan("/docs")
    finally:
        run("mount", ext4.device, ext4.folder)


def test_other_file_systems_than_when_it_was_planned_are_refused(ext4: Running, tmp_path: Path):
    plan = ext4.plan("/docs")
    run("umount", ext4.folder)
    (tmp_path / "elsewhere").mkdir()
    run("mount", ext4.device, tmp_path / "elsewhere")
    try:
        with pytest.raises(UnfitTarget, match="Other file systems"):
            put_back.run(plan, Task())
    finally:
        run("umount", tmp_path / "elsewhere")
        run("mount", ext4.device, ext4.folder)


def test_a_subvolume_is_mounted_elsewhere_than_it_lies(stack: ExitStack, tmp_path: Path):
    system = running(stack, tmp_path, "btrfs")
    run("btrfs", "subvolume", "create", system.folder / "@home")
    (system.folder / "@home/mine").write_text("as it was")
    request = backup.BackupRequest(SourceRef.of_path(system.device), tmp_path / "kept")
    with backup.planned(request) as plan:
        system.point = capture.run(plan, Task()).point.id
    run("umount", system.folder)
    run("mount", "-o", "subvol=@home", system.device, system.folder)
    (system.folder / "mine").unlink()
    assert system.put_back("/@home/mine").files == 1
    assert (system.folder / "mine").read_text() == "as it was"
    with pytest.raises(UnfitTarget, match="does not show"):
        system.plan("/docs")


def test_a_whole_file_system_is_not_put_back(ext4: Running):
    with pytest.raises(NotInPoint, match="whole file system"):
        ext4.plan("/")


def test_who_cancels_finds_each_file_whole_or_as_it_was(ext4: Running):
    shutil.rmtree(ext4.folder / "docs/inner")
    plan = ext4.plan("/docs")
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        put_back.run(plan, Task(silent, cancel))
    assert not (ext4.folder / "docs/inner").exists()
    assert nothing_of_ours(ext4.folder)


def test_what_a_kill_has_left_goes_the_next_time(system: Running, monkeypatch: pytest.MonkeyPatch):
    (system.folder / "docs/letter").unlink()
    plan = system.plan("/docs/letter")

    def killed(*arguments: object) -> tuple[str, ...]:
        os.kill(os.getpid(), signal.SIGKILL)
        return ()

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(put_back.writeback, "sync_file_system", killed)
        put_back.run(plan, Task())
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not nothing_of_ours(system.folder)
    assert system.put_back("/docs/letter").files == 1
    assert (system.folder / "docs/letter").read_text() == "as it was"
    assert nothing_of_ours(system.folder)
