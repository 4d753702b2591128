"""Who has a file open is seen, whatever program it is, and named."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
from pathlib import Path

import pytest

from tests.disks.opened import on_loop, opened
from tests.sources.ordinary_user import as_an_ordinary_user, open_folder
from vdbackup import durable
from vdbackup.disks import holders as module
from vdbackup.disks import qemu_locks
from vdbackup.disks.holders import Holder, holders, named


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "0001-full.vhd"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.mark.parametrize(("mode", "writes"), [("<", False), (">>", True), ("<>", True)])
def test_a_program_that_takes_no_lock_is_named_with_its_number_and_user(file, mode, writes):
    user = pwd.getpwuid(os.geteuid()).pw_name
    with opened(file, mode) as process:
        assert holders([file]) == [Holder(file, "cat", process.pid, user, writes)]
        assert str(holders([file])[0]) == f"cat (process {process.pid} of {user})"
    assert holders([file]) == []


@pytest.mark.usefixtures("as_root")
def test_a_loop_device_is_seen_though_no_process_has_the_file_open(file):
    with on_loop(file) as device:
        assert holders([file]) == [Holder(file, device, None, "", False)]
        assert named(holders([file])) == f"the loop device {device}"


def test_qemu_is_seen_also_where_its_locks_are_switched_off(file):
    image = f"driver=raw,file.driver=file,file.locking=off,file.filename={file}"
    with subprocess.Popen(
        ["qemu-io", "-r", "--image-opts", image],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("length\n")
        process.stdin.flush()
        assert "MiB" in process.stdout.readline()
        assert [each.program for each in holders([file])] == ["qemu-io"]
        process.stdin.close()


def test_what_this_process_has_open_does_not_count(file):
    with file.open("rb"):
        assert holders([file]) == []


def test_a_file_is_known_by_its_inode_and_not_by_its_name(file, tmp_path):
    link = tmp_path / "link"
    link.hardlink_to(file)
    other = tmp_path / "elsewhere" / file.name
    other.parent.mkdir()
    other.write_bytes(b"")
    with opened(link) as process:
        assert [each.pid for each in holders([file])] == [process.pid]
        assert holders([other]) == []
    with opened(file):
        renamed = file.rename(tmp_path / "0002-full.vhd")
        assert len(holders([renamed])) == 1


def test_all_files_are_looked_for_in_one_pass_and_each_program_is_named_once(tmp_path, file):
    other = tmp_path / "0002-incremental.vhd"
    other.write_bytes(b"")
    missing = tmp_path / "missing"
    with opened(file) as one, opened(other) as two, opened(other) as three:
        found = holders([file, other, missing])
        assert {(each.path, each.pid) for each in found} == {
            (file, one.pid), (other, two.pid), (other, three.pid),
        }  # fmt: skip
        assert named(found).count("cat (process") == 3
        assert " and cat (process" in named(found)


@pytest.mark.usefixtures("as_root")
def test_a_user_sees_their_own_programs_and_no_error_of_others():
    with open_folder() as folder:
        file = folder / "0001-full.vhd"
        file.write_bytes(b"")
        with opened(file) as process:
            with as_an_ordinary_user():
                assert holders([file]) == []
            assert [each.pid for each in holders([file])] == [process.pid]


def test_a_name_that_steers_a_terminal_is_shown_and_not_obeyed(file, tmp_path):
    program = tmp_path / "a\x1b[31m"
    program.symlink_to("/bin/cat")
    with opened(file, program=str(program)):
        assert [each.program for each in holders([file])] == ["a\\x1b[31m"]


def test_of_a_file_that_nobody_has_open_no_process_is_looked_at(file, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_PROCESSES", tmp_path / "there is no such folder")
    assert holders([file]) == []
    with opened(file), pytest.raises(FileNotFoundError):
        holders([file])


def test_who_has_a_file_open_that_may_not_be_read_any_more_is_seen():
    with open_folder() as folder, as_an_ordinary_user():
        file = folder / "0001-full.vhd"
        file.write_bytes(b"")
        with opened(file) as process:
            file.chmod(0o200)
            assert [each.pid for each in holders([file])] == [process.pid]


def test_whoever_opens_a_file_while_it_is_looked_at_gets_it(file):
    """By a lease for that moment: programs that do not wait for it try again, as open(2) has it."""
    ended = threading.Event()
    looks: list[list[Holder]] = []

    def look() -> None:
        while not ended.is_set():
            looks.append(holders([file]))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(2_000):
            os.close(os.open(file, os.O_RDWR))
            os.close(durable.open_own(file))
            assert not qemu_locks.is_open(file)
    finally:
        ended.set()
        looking.join()
    assert looks
    assert not any(looks)
