"""Our own files on storage that others write to: never led astray, and whole or not there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sources.ordinary_user import as_an_ordinary_user, open_folder
from vdbackup import durable
from vdbackup.errors import Obstructed

OURS = b'{"layout": 1}'
PRECIOUS = b"a letter to grandmother\n"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of the user's that nothing of ours may touch."""
    file = tmp_path / "letter.txt"
    file.write_bytes(PRECIOUS)
    return file


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def dangling_link(path: Path, target: Path) -> None:
    path.symlink_to(target.with_name("nowhere"))


def circle(path: Path, _target: Path) -> None:
    path.symlink_to(path.name)


def pipe(path: Path, _target: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _target: Path) -> None:
    path.mkdir()


def a_socket(path: Path, _target: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def device(path: Path, _target: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: it never ends


def beside(path: Path) -> Path:
    return path.with_name(path.name + durable.PARTIAL)


KINDS = [link, dangling_link, circle, pipe, folder, a_socket]
if os.geteuid() == 0:
    KINDS.append(device)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT])
def test_what_is_no_ordinary_file_is_refused_and_nobody_waits_for_it(
    tmp_path, precious, kind: Callable[[Path, Path], None], flags: int
):
    path = tmp_path / "ours.json"
    kind(path, precious)
    with pytest.raises(Obstructed, match=r"ours\.json") as refusal:
        durable.open_own(path, flags)
    assert refusal.value.advice
    assert precious.read_bytes() == PRECIOUS
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_where_a_file_is_written_is_replaced_and_never_written_through(
    tmp_path, precious, kind: Callable[[Path, Path], None]
):
    for name in ("ours.json", "ours.json.partial"):
        kind(tmp_path / name, precious)
    if kind is folder:  # what is in it would go, too
        with pytest.raises(IsADirectoryError):
            durable.replace(tmp_path / "ours.json", OURS)
    else:
        durable.replace(tmp_path / "ours.json", OURS)
        assert durable.read_own(tmp_path / "ours.json") == OURS
        assert sorted(os.listdir(tmp_path)) == ["letter.txt", "ours.json"]
    assert precious.read_bytes() == PRECIOUS
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_is_longer_than_ours_can_be_is_refused_without_being_read(tmp_path):
    path = tmp_path / "ours.json"
    path.touch()
    os.truncate(path, 1 << 42)
    with pytest.raises(Obstructed, match="longer"):
        durable.read_own(path)


def test_folders_above_may_be_reached_by_links(tmp_path):
    (tmp_path / "drive").mkdir()
    (tmp_path / "backups").symlink_to("drive")
    durable.replace(tmp_path / "backups" / "ours.json", OURS)
    assert (tmp_path / "drive" / "ours.json").read_bytes() == OURS
    assert durable.read_own(tmp_path / "backups" / "ours.json") == OURS


def test_a_file_that_is_not_there_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        durable.open_own(tmp_path / "ours.json")


def test_where_no_file_may_be_made_that_is_said_and_not_that_it_is_gone():
    """To their owner a read-only repository was storage that had been pulled out."""
    with open_folder() as public:
        public.chmod(0o555)
        with as_an_ordinary_user(), pytest.raises(PermissionError):
            durable.open_own(public / "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def test_nothing_is_renamed_or_removed_once_somebody_objects(tmp_path):
    """As when another computer has taken the repository over, whose file it then is."""

    class Objection(Exception):
        pass

    looks = iter([False, True])

    def look() -> None:
        if next(looks):
            raise Objection

    path = tmp_path / "ours.json"
    path.write_bytes(b"theirs")
    with pytest.raises(Objection):
        durable.replace(path, OURS, look)
    assert path.read_bytes() == b"theirs"
    assert (tmp_path / "ours.json.partial").read_bytes() == OURS


HOLDER = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
signal.signal(signal.SIGIO, lambda *_: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK))
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_file_that_is_made_beside_takes_its_place_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "0001-overlay.vmdk"
    path.write_bytes(b"old")
    beside(path).write_bytes(b"of an interruption")
    with durable.made_beside(path) as partial:
        assert partial == beside(path)
        assert not partial.exists()
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {path.name: b"new"}


@pytest.mark.parametrize("error", [OSError, Obstructed, KeyboardInterrupt])
def test_a_file_that_could_not_be_made_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
):
    path = tmp_path / "0001-overlay.vmdk"
    path.write_bytes(b"old")

    def fail() -> None:
        with durable.made_beside(path) as partial:
            partial.write_bytes(b"ne")
            raise error("the storage went away", "Connect it again.")

    with pytest.raises(error):
        fail()
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {path.name: b"old"}


def test_the_folder_is_durable_only_after_the_name_is_in_it(tmp_path: Path, monkeypatch):
    path, order = tmp_path / "record", []
    rename, sync = os.rename, durable.sync_folder
    monkeypatch.setattr(os, "rename", lambda *names: (order.append("rename"), rename(*names)))
    monkeypatch.setattr(
        durable, "sync_folder", lambda folder: (order.append(f"sync {folder.name}"), sync(folder))
    )
    with durable.made_beside(path) as partial:
        partial.write_bytes(b"new")
        order.append("made")
    assert order == ["made", "rename", f"sync {tmp_path.name}"]


def test_a_file_that_a_server_of_this_computer_has_leased_is_waited_for(tmp_path):
    """Samba and knfsd lease files; whoever opens one without waiting is told to try again."""
    path = tmp_path / "ours.json"
    path.write_bytes(OURS)
    server = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        assert durable.read_own(path) == OURS
        holder.stdin.close()


def test_a_file_that_is_replaced_keeps_who_may_read_it(tmp_path: Path):
    path = tmp_path / "ours.json"
    durable.replace(path, b"{}")
    path.chmod(0o644)
    durable.replace(path, OURS)
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.read_bytes() == OURS


def test_whoever_may_write_by_a_group_leaves_a_file_to_the_group(as_root: None, tmp_path: Path):
    """Only root can give a file back to its owner, who else could not read it any more."""
    group = 65533
    shared, path = tmp_path / "shared", tmp_path / "shared/set.json"
    shared.mkdir()
    path.write_bytes(b"{}")
    for each, mode in ((shared, 0o770), (path, 0o660)):
        os.chown(each, 0, group)
        each.chmod(mode)
    script = (
        "import os, sys; os.chdir(sys.argv[1]); from pathlib import Path;"
        "from vdbackup import durable; os.setgroups([65533]); os.setgid(65534); os.setuid(65534);"
        "durable.replace(Path('set.json'), b'{}')"
    )
    subprocess.run([sys.executable, "-c", script, shared], check=True)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, group, 0o660)


def test_one_backup_by_root_locks_nobody_out_of_their_repository(as_root: None, tmp_path: Path):
    """Else its owner could not read set.json any more."""
    path = tmp_path / "set.json"
    path.write_bytes(b"{}")
    os.chown(path, 65534, 65534)
    durable.replace(path, OURS)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)
    assert path.read_bytes() == OURS
