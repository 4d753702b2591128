"""Chosen files on Btrfs are read from a snapshot, of which nothing is left, whatever comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.recovery.chosen import as_restored, restore
from tests.sources.file_sets.kept import Kept
from tests.sources.file_sets.trees import settled
from tests.sources.loops import loop, mounted, run
from vdbackup.consistency import How
from vdbackup.errors import NotFrozen
from vdbackup.jobs import Task
from vdbackup.operations import backup
from vdbackup.operations.machines import Machines
from vdbackup.sources.file_sets import subvolume, sync
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.one_moment import OneMoment
from vdbackup.sources.moment import Wanted
from vdbackup.sources.reference import Scheme, SourceRef

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "btrfs.img"
    image.touch()
    os.truncate(image, 256 << 20)
    run("mkfs.btrfs", "-q", image)
    with loop(image) as device, mounted(device, tmp_path / "mounted") as there:
        yield there


@pytest.fixture
def home(btrfs: Path) -> Path:
    """A subvolume with some files in a folder; the folder."""
    run("btrfs", "subvolume", "create", btrfs / "home")
    folder = btrfs / "home" / "me"
    (folder / "inner").mkdir(parents=True)
    for number in range(30):
        (folder / f"{number:02}").write_bytes(b"%d" % number * 1000)
    return folder


def back_up(
    *folders: Path,
    to: Path,
    consistency: Wanted = Wanted.AUTO,
    crosses: bool = False,
    task: Task | None = None,
) -> backup.BackupResult:
    choice = Choice.of([str(folder) for folder in folders], crosses=crosses)
    ref = SourceRef(Scheme.FILES, str(choice))
    request = backup.BackupRequest(ref, to, consistency=consistency)
    return backup.back_up(request, Machines(to.parent / "sessions"), task or Task())


def how(made: backup.BackupResult) -> How:
    assert made.point.reading is not None
    return made.point.reading.consistency.how


def snapshots(above: Path) -> list[str]:
    return [name for name in os.listdir(above) if name.startswith(".vdbackup")]


def writing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first file that is read on, all others are written to, made and deleted."""
    real, done = sync.attributes_of, []

    def attributes_of(fd: int) -> dict[str, bytes]:
        if not done:
            done.append(1)
            for number in range(30):
                (folder / f"{number:02}").write_bytes(b"later")
            (folder / "new").write_bytes(b"later")
            (folder / "29").unlink()
        return real(fd)

    monkeypatch.setattr(sync, "attributes_of", attributes_of)


def test_all_files_are_of_the_moment_in_which_it_began(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = as_restored(home)
    writing(home, monkeypatch)
    made = back_up(home, to=tmp_path / "backups", consistency=Wanted.FROZEN)
    assert how(made) is How.SNAPSHOT
    assert made.warnings == ()
    assert made.point.reading is not None
    assert made.point.reading.consistency.sentence.startswith("Consistent, read from a snapshot")
    assert (home / "05").read_bytes() == b"later"
    assert restore(made.repository, tmp_path / "back") == ()
    assert as_restored(Path(f"{tmp_path}/back{home}")) == before
    assert snapshots(home.parent) == []


def test_as_is_makes_no_snapshot(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object) -> None:
        raise AssertionError("a snapshot")

    monkeypatch.setattr(subvolume.Snapshot, "__init__", refused)
    made = back_up(home, to=tmp_path / "backups", consistency=Wanted.AS_IS)
    assert how(made) is How.AS_IS


def test_what_has_not_changed_is_not_read_again_from_the_next_snapshot(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settled(home)
    back_up(home, to=tmp_path / "backups")
    read: list[int] = []
    real = sync.Content

    def content(*arguments: Any) -> Any:
        read.append(1)
        return real(*arguments)

    monkeypatch.setattr(sync, "Content", content)
    (home / "07").write_bytes(b"changed")
    assert how(back_up(home, to=tmp_path / "backups")) is How.SNAPSHOT
    assert len(read) == 1
    made = back_up(home, to=tmp_path / "backups", consistency=Wanted.AS_IS)
    assert len(read) <= 2  # what has just changed is not believed
    assert restore(made.repository, tmp_path / "back") == ()
    assert as_restored(Path(f"{tmp_path}/back{home}")) == as_restored(home)


def test_a_repository_in_the_subvolume_is_left_out_of_its_snapshot(home: Path, tmp_path: Path):
    made = back_up(home, to=home / "backups")
    made = back_up(home, to=home / "backups")
    assert how(made) is How.SNAPSHOT
    assert restore(made.repository, tmp_path / "back") == ()
    back = Path(f"{tmp_path}/back{home}")
    assert os.listdir(back / "backups") == []
    assert (back / "07").read_bytes() == (home / "07").read_bytes()


def test_what_is_mounted_in_a_folder_is_left_out_and_what_it_hides_too(home: Path, tmp_path: Path):
    (home / "inner" / "hidden").write_bytes(b"hidden")
    run("btrfs", "subvolume", "create", home / "nested")
    (home / "nested" / "of nested").write_bytes(b"of nested")
    with mounted("none", home / "inner", "-t", "tmpfs"):
        (home / "inner" / "shown").touch()
        made = back_up(home, to=tmp_path / "backups")
    assert how(made) is How.SNAPSHOT
    assert restore(made.repository, tmp_path / "back") == ()
    back = Path(f"{tmp_path}/back{home}")
    assert os.listdir(back / "inner") == os.listdir(back / "nested") == []


def test_what_another_folder_of_the_subvolume_is_mounted_over_is_read_as_it_is_seen(
    home: Path, tmp_path: Path
):
    """Its snapshot has at that path what the mount hides."""
    shown, over = home / "inner", home.parent / "over"
    (shown / "shown").write_bytes(b"shown")
    over.mkdir()
    (over / "hidden").write_bytes(b"hidden")
    with mounted(shown, over, "--bind"):
        made = back_up(over, to=tmp_path / "backups")
        assert how(made) is How.AS_IS
        assert restore(made.repository, tmp_path / "back") == ()
    assert os.listdir(Path(f"{tmp_path}/back{over}")) == ["shown"]


def test_of_several_subvolumes_or_other_file_systems_it_is_no_single_moment(
    home: Path, btrfs: Path, tmp_path: Path
):
    run("btrfs", "subvolume", "create", btrfs / "srv")
    (btrfs / "srv" / "file").write_bytes(b"file")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number, (others, crosses) in enumerate(
        [((btrfs / "srv",), False), ((elsewhere,), False), ((), True)]
    ):
        to = tmp_path / f"backups{number}"
        with pytest.raises(NotFrozen):
            back_up(home, *others, to=to, crosses=crosses, consistency=Wanted.FROZEN)
        made = back_up(home, *others, to=to, crosses=crosses)
        assert how(made) is How.AS_IS
        assert made.warnings == ()
    assert snapshots(home.parent) == snapshots(btrfs / "srv") == []


def test_who_may_not_remove_a_snapshot_makes_none(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    moment = OneMoment(Choice((str(home),)), wanted=True)
    assert "only root can have a snapshot" in moment.hindrance
    with moment:
        assert moment.instead.folders == {}


def test_a_snapshot_that_cannot_be_made_is_no_reason_not_to_back_up(home: Path, tmp_path: Path):
    run("btrfs", "property", "set", home.parent, "ro", "true")
    made = back_up(home, to=tmp_path / "backups")
    assert how(made) is How.AS_IS
    assert restore(made.repository, tmp_path / "back") == ()
    with pytest.raises(NotFrozen, match="No snapshot of"):
        back_up(home, to=tmp_path / "backups", consistency=Wanted.FROZEN)


KILLED = """
import os, sys
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.one_moment import OneMoment

with OneMoment(Choice((sys.argv[1],)), wanted=True):
    print("made", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_backup_has_left_goes_with_the_next_and_nothing_else(
    home: Path, tmp_path: Path
):
    above = home.parent
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"made\n"
        (left,) = snapshots(above)
        back_up(home, to=tmp_path / "backups")
        assert snapshots(above) == [left]  # it is in use
        child.send_signal(signal.SIGKILL)
    for name in (
        ".vdbackup-snapshot-1-0-0",
        ".vdbackup-snapshot-1-0-1",
        ".vdbackup-snapshot-1-0-2",
    ):
        path = above / name
        if name.endswith("0"):
            path.mkdir()
        elif name.endswith("1"):
            run("btrfs", "subvolume", "create", path)
        else:
            run("btrfs", "subvolume", "snapshot", above, path)  # which may be written to
    made = back_up(home, to=tmp_path / "backups")
    assert sorted(snapshots(above)) == [f".vdbackup-snapshot-1-0-{number}" for number in range(3)]
    assert how(made) is How.SNAPSHOT


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_who_owns_the_subvolume_has_no_snapshot_of_root_s_deleted_by_its_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
):
    above = home.parent
    os.chown(above, 1234, 1234)
    run("btrfs", "subvolume", "snapshot", "-r", above, above / "kept of root")
    if when == "before":
        taken = above / ".vdbackup-snapshot-1-0-0"
        (above / "kept of root").rename(taken)  # that its owner may do, and not delete it
        back_up(home, to=tmp_path / "backups")
    else:
        with subvolume.Snapshot(_of(home)) as made:
            (name,) = snapshots(above)
            taken = above / name
            taken.rename(above / "aside")
            (above / "kept of root").rename(taken)
            assert os.stat(home.name, dir_fd=made.fd)
        (above / "aside").rmdir()
    assert (taken / home.name / "07").exists()


def _of(path: Path) -> subvolume.Subvolume:
    found = subvolume.Subvolume.of(os.fsencode(path))
    assert found is not None
    return found


def test_a_cancelled_backup_leaves_no_snapshot(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from vdbackup.errors import Cancelled

    task = Task()

    def cancelled(fd: int) -> dict[str, bytes]:
        assert len(snapshots(home.parent)) == 1
        task.cancel.cancel()
        task.check()
        return {}

    monkeypatch.setattr(sync, "attributes_of", cancelled)
    with pytest.raises(Cancelled):
        back_up(home, to=tmp_path / "backups", task=task)
    assert snapshots(home.parent) == []


def test_the_disk_of_a_whole_subvolume_is_the_subvolume(btrfs: Path, tmp_path: Path):
    """Also where it is the root of all that is chosen."""
    (btrfs / "file").write_bytes(b"file")
    (btrfs / "link").symlink_to("file")
    kept = Kept(tmp_path / "files.img", btrfs)
    kept.keep()
    with kept.mounted() as there:
        assert (there / "file").read_bytes() == b"file"
        assert sorted(os.listdir(there)) == ["file", "link"]


def test_where_no_single_moment_can_be_had_nothing_is_read_before_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"file")

    def read(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(sync.Sync, "run", read)
    with pytest.raises(NotFrozen, match="files are read one after the other"):
        back_up(folder, to=tmp_path / "backups", consistency=Wanted.FROZEN)
