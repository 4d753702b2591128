"""Files go back into folders that others own, that are many, or that lie in other subvolumes."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.recovery.in_use import Running, nothing_of_ours, running
from tests.sources.loops import run
from vdbackup.jobs import Task
from vdbackup.recovery import put_back
from vdbackup.volumes.keys import Keys

pytestmark = pytest.mark.usefixtures("as_root")

SOMEBODY = 1234
MIB = 1 << 20


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def ext4(stack: ExitStack, tmp_path: Path) -> Running:
    return running(stack, tmp_path, "ext4")


@pytest.fixture
def btrfs(stack: ExitStack, tmp_path: Path) -> Running:
    return running(stack, tmp_path, "btrfs")


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_descriptors")
def test_more_folders_than_descriptors_are_gone_through(ext4: Running):
    for number in range(300):
        (ext4.folder / f"docs/{number}").mkdir()
        (ext4.folder / f"docs/{number}/file").write_text("as it was")
    ext4.back_up()
    (ext4.folder / "docs/7/file").unlink()
    done = ext4.put_back("/docs")
    assert (done.files, done.same) == (1, 303)
    assert (ext4.folder / "docs/7/file").read_text() == "as it was"


def test_who_owns_the_folder_has_nothing_of_root_s_deleted_by_its_name(ext4: Running):
    os.chown(ext4.folder / "docs", SOMEBODY, SOMEBODY)
    kept = ext4.folder / "docs/kept of root"
    kept.mkdir()
    (kept / "file").write_text("stays")
    (ext4.folder / "docs/letter").unlink()
    named = ext4.folder / "docs/.vdbackup-0123456789abcdef.partial"
    kept.rename(named)  # that its owner may do; delete it he may not, as it is not empty
    assert ext4.put_back("/docs/letter").files == 1
    assert (named / "file").read_text() == "stays"


def test_what_takes_the_name_of_our_folder_meanwhile_is_not_deleted(
    ext4: Running, monkeypatch: pytest.MonkeyPatch
):
    docs = ext4.folder / "docs"
    os.chown(docs, SOMEBODY, SOMEBODY)
    (docs / "kept of root").mkdir()
    (docs / "kept of root/file").write_text("stays")
    (docs / "letter").unlink()
    plan = ext4.plan("/docs/letter")
    extract, taken = put_back.extract, []

    def and_then(*arguments: object, **named: object) -> tuple[str, ...]:
        said = extract(*arguments, **named)  # type: ignore[arg-type]
        (ours,) = docs.glob(".vdbackup-*")
        ours.rename(docs / "aside")
        (docs / "kept of root").rename(ours)
        taken.append(ours)
        return said

    monkeypatch.setattr(put_back, "extract", and_then)
    assert put_back.run(plan, Task()).files == 1
    assert (taken[0] / "file").read_text() == "stays"
    assert (docs / "letter").read_text() == "as it was"
    assert list((docs / "aside").iterdir()) == []


def test_a_subvolume_in_the_folder_gets_its_files_back_too(btrfs: Running):
    run("btrfs", "subvolume", "create", btrfs.folder / "docs/sub")
    (btrfs.folder / "docs/sub/in").mkdir()
    (btrfs.folder / "docs/sub/in/mine").write_text("as it was")
    (btrfs.folder / "docs/sub/other").write_text("as it was")
    run("btrfs", "subvolume", "create", btrfs.folder / "docs/sub/in/deepest")
    (btrfs.folder / "docs/sub/in/deepest/file").write_text("as it was")
    btrfs.back_up()
    (btrfs.folder / "docs/sub/in/mine").unlink()
    (btrfs.folder / "docs/sub/other").write_text("changed")
    (btrfs.folder / "docs/sub/in/deepest/file").unlink()
    for paths in (("/docs",), ("/docs/sub",)):
        done = btrfs.put_back(*paths, overwrite=True)
        assert done.files == (3 if paths == ("/docs",) else 0)
    assert (btrfs.folder / "docs/sub/in/mine").read_text() == "as it was"
    assert (btrfs.folder / "docs/sub/other").read_text() == "as it was"
    assert (btrfs.folder / "docs/sub/in/deepest/file").read_text() == "as it was"
    assert nothing_of_ours(btrfs.folder)


def test_what_is_there_as_it_was_takes_no_room_meanwhile(ext4: Running):
    (ext4.folder / "docs/large").write_bytes(os.urandom(10 * MIB))
    ext4.back_up()
    (ext4.folder / "docs/letter").unlink()
    room = shutil.disk_usage(ext4.folder).free
    (ext4.folder / "fill").write_bytes(os.urandom(room - 3 * MIB))
    done = ext4.put_back("/docs")
    assert (done.files, done.same) == (1, 4)


def test_a_program_that_had_root_s_rights_keeps_them_when_it_is_replaced(ext4: Running):
    sudo, gone = ext4.folder / "docs/sudo", ext4.folder / "docs/gone"
    theirs = ext4.folder / "docs/somebody's"
    for each in (sudo, gone, theirs):
        each.write_text("as it was")
        each.chmod(0o4755)
    ext4.back_up()
    gone.unlink()
    sudo.write_text("broken")
    sudo.chmod(0o4755)
    theirs.unlink()
    theirs.write_text("not root's")
    os.chown(theirs, SOMEBODY, SOMEBODY)
    theirs.chmod(0o4755)
    done = ext4.put_back("/docs", overwrite=True)
    assert sudo.read_text() == "as it was"
    assert sudo.stat().st_mode & 0o7777 == 0o4755
    assert gone.stat().st_mode & 0o7777 == 0o755
    assert theirs.stat().st_mode & 0o7777 == 0o755
    (rights,) = [each for each in done.warnings if "set-user-id" in each]
    assert "and 1 more" in rights
    assert "sudo" not in rights


def test_capabilities_of_a_program_that_is_replaced_stay_too(ext4: Running):
    ping = ext4.folder / "docs/ping"
    ping.write_text("as it was")
    run("setcap", "cap_net_raw+ep", ping)
    ext4.back_up()
    ping.write_text("broken")
    run("setcap", "cap_net_raw+ep", ping)
    done = ext4.put_back("/docs/ping", overwrite=True)
    assert ping.read_text() == "as it was"
    assert "cap_net_raw" in run("getcap", ping)
    assert not any("set-user-id" in each for each in done.warnings)


def test_what_may_not_be_changed_stays_and_the_others_come_back(ext4: Running):
    docs = ext4.folder / "docs"
    (docs / "same").unlink()
    (docs / "letter").write_text("changed")
    (docs / "inner/deep").unlink()
    run("chattr", "+i", docs / "letter", docs / "inner")
    try:
        done = ext4.put_back("/docs", overwrite=True)
    finally:
        run("chattr", "-i", docs / "letter", docs / "inner")
    assert done.files == 1
    assert (docs / "same").read_text() == "the same"
    assert (docs / "letter").read_text() == "changed"
    (said,) = [each for each in done.warnings if "could not be made" in each]
    assert "docs/letter" in said
    assert "docs/inner/deep" in said
    assert nothing_of_ours(ext4.folder)


def test_a_folder_that_takes_a_file_s_place_meanwhile_stops_nothing(
    ext4: Running, monkeypatch: pytest.MonkeyPatch
):
    (ext4.folder / "docs/letter").write_text("changed")
    (ext4.folder / "docs/same").unlink()
    plan = ext4.plan("/docs", overwrite=True)
    rename = os.rename

    def late(source: bytes, target: bytes, **folders: int) -> None:
        if source == b"letter":
            (ext4.folder / "docs/letter").unlink()
            (ext4.folder / "docs/letter").mkdir()
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", late)
    done = put_back.run(plan, Task())
    assert any("docs/letter" in each for each in done.warnings)
    assert (ext4.folder / "docs/same").read_text() == "the same"


def test_names_as_long_as_can_be_and_of_no_text_come_back(ext4: Running):
    names = [b"n" * 255, b"\xff\xfe no text \n", "ä".encode() * 127]
    docs = os.fsencode(ext4.folder / "docs")
    for name in names:
        with open(docs + b"/" + name, "wb") as file:
            file.write(name)
    ext4.back_up()
    for name in names:
        os.unlink(docs + b"/" + name)
    assert ext4.put_back("/docs/").files == 3
    for name in names:
        with open(docs + b"/" + name, "rb") as file:
            assert file.read() == name


def test_a_key_is_not_in_what_a_log_would_say_of_it(ext4: Running):
    request = put_back.PutBackRequest(
        ext4.repository, ext4.set_name, ext4.point, ("/docs",), keys=Keys((b"a secret key",))
    )
    assert "a secret key" not in repr(request)
