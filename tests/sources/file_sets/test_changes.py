"""What has changed is read and kept; what has not is left alone; what cannot be read is said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sources.file_sets.kept import Kept
from tests.sources.file_sets.trees import settled
from tests.sources.ordinary_user import as_an_ordinary_user, open_folder
from vdbackup.errors import Cancelled, SourceNotFound
from vdbackup.jobs import CancelToken, Task
from vdbackup.sources.file_sets import blank, content, storages, sync
from vdbackup.sources.file_sets.content import Content
from vdbackup.sources.file_sets.places import Place
from vdbackup.sources.file_sets.storages import Storages

IS_SETTLED = Storages.is_settled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "chosen"
    folder.mkdir()
    for number in range(20):
        write(folder / f"{number}", os.urandom(5000))
    return folder


@pytest.fixture
def kept(tmp_path: Path, folder: Path) -> Kept:
    return Kept(tmp_path / "files.img", folder)


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files were read."""
    read: list[str] = []

    class Watched(Content):
        def __init__(self, folder: Place, name: bytes, moved: Callable[[int], None]) -> None:
            super().__init__(folder, name, moved)
            read.append(os.fsdecode(name))

    monkeypatch.setattr(sync, "Content", Watched)
    return read


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes as fast as the tests need it to."""
    monkeypatch.setattr(Storages, "is_settled", lambda *_: True)


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def names_in(kept: Kept, path: Path) -> set[str]:
    """What debugfs finds in a folder of the image."""
    said = subprocess.run(
        ["debugfs", "-R", f'ls -p "{path}"', f"{kept.image}?offset={blank.START}"],
        capture_output=True, text=True, check=True,
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    ).stdout  # fmt: skip
    return {line.split("/")[5] for line in said.splitlines() if line} - {".", ".."}


def content_of(kept: Kept, path: Path) -> bytes:
    """What debugfs reads of a file in the image."""
    return subprocess.run(
        ["debugfs", "-R", f'cat "{path}"', f"{kept.image}?offset={blank.START}"],
        capture_output=True, check=True, env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    ).stdout  # fmt: skip


def test_nothing_is_read_or_written_where_nothing_has_changed(kept: Kept, read: list[str]):
    kept.keep()
    assert len(read) == 20
    read.clear()
    kept.keep()
    assert read == []
    assert kept.written <= 128 << 10  # others work in folders above, such as /tmp


def test_what_has_changed_is_read_and_nothing_else(kept: Kept, folder: Path, read: list[str]):
    kept.keep()
    read.clear()
    write(folder / "7", b"seven")
    write(folder / "new", b"new")
    (folder / "3").unlink()
    kept.keep()
    assert sorted(read) == ["7", "new"]
    assert content_of(kept, folder / "7") == b"seven"
    assert names_in(kept, folder) == {*map(str, range(20)), "new"} - {"3"}


def test_what_changed_though_its_times_were_set_back_is_read(
    kept: Kept, folder: Path, read: list[str]
):
    path, before = folder / "7", (folder / "7").stat()
    kept.keep()
    read.clear()
    write(path, b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    kept.keep()
    assert read == ["7"]
    assert content_of(kept, path) == b"x" * before.st_size


def test_all_is_read_where_that_is_wanted(kept: Kept, read: list[str]):
    kept.keep()
    read.clear()
    kept.keep(reads_all=True)
    assert len(read) == 20


def test_a_file_written_in_the_tick_in_which_it_was_read_is_read_again(
    kept: Kept, folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
):
    number = (folder / "7").stat().st_ino
    monkeypatch.setattr(Storages, "is_settled", lambda _, found: found.st_ino != number)
    kept.keep()
    read.clear()
    kept.keep()
    assert read == ["7"]


def test_only_what_is_old_enough_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    path.touch()
    changed = path.stat().st_ctime_ns
    for later, is_settled in ((1, False), (storages._TICK + 1, True)):
        monkeypatch.setattr(storages.time, "clock_gettime_ns", lambda _, t=changed + later: t)
        assert IS_SETTLED(Storages(), path.stat()) is is_settled


def test_a_file_that_changes_while_it_is_read_is_read_again(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    changed_while_read(folder / "7", 1, monkeypatch)
    kept.keep()
    assert kept.trouble == ()
    assert content_of(kept, folder / "7") == b"changed 1"


def test_a_file_that_changes_each_time_is_named_and_read_the_next_time(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
):
    changed_while_read(folder / "7", 3, monkeypatch)
    kept.keep()
    assert len(kept.trouble) == 1
    assert (
        f"changed each time while they were read, and may be of no one moment: {folder}/7"
        in (kept.trouble[0])
    )
    read.clear()
    kept.keep()
    assert (kept.trouble, read) == ((), ["7"])


def changed_while_read(path: Path, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    readinto, done = Content.readinto, []

    def changing(self: Content, offset: int, view: memoryview) -> None:
        readinto(self, offset, view)
        if self.found.st_ino == path.stat().st_ino and len(done) < times:
            done.append(1)
            write(path, f"changed {len(done)}".encode())

    monkeypatch.setattr(Content, "readinto", changing)


def refused(name: str, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    opened = os.open

    def refusing(path: object, *arguments: int, **options: object) -> int:
        if isinstance(path, bytes) and os.path.basename(path) == name.encode():
            raise error
        return opened(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(content.os, "open", refusing)


def test_what_cannot_be_read_is_left_out_and_named(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    refused("7", monkeypatch, PermissionError(13, "Permission denied"))
    kept.keep()
    assert kept.trouble == (f"These could not be read, and are not in the point: {folder}/7.",)
    assert "7" not in names_in(kept, folder)


def test_what_cannot_be_read_any_more_stays_as_it_was_and_is_named(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    before = (folder / "7").read_bytes()
    kept.keep()
    write(folder / "7", b"nobody sees this")
    refused("7", monkeypatch, PermissionError(13, "Permission denied"))
    kept.keep()
    assert kept.trouble == (
        f"These could not be read, and are as the point before has them: {folder}/7.",
    )
    assert content_of(kept, folder / "7") == before


def test_a_file_that_vanishes_before_it_is_read_is_not_there(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    kept.keep()
    write(folder / "7", b"changed")
    refused("7", monkeypatch, FileNotFoundError(2, "No such file"))
    kept.keep()
    assert (kept.trouble, "7" in names_in(kept, folder)) == ((), False)


def test_a_folder_that_cannot_be_read_any_more_stays_as_it_was(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (folder / "inner").mkdir()
    write(folder / "inner" / "file", b"content")
    os.link(folder / "inner" / "file", folder / "the same file")
    kept.keep()
    listed = Place.names

    def listing(place: Place) -> list[bytes]:
        if place.path == os.fsencode(folder / "inner"):
            raise PermissionError(13, "Permission denied")
        return listed(place)

    monkeypatch.setattr(Place, "names", listing)
    kept.keep()
    assert content_of(kept, folder / "inner" / "file") == b"content"
    assert f"{folder}/inner (Permission denied)" in kept.trouble[0]


def test_a_stretch_that_its_medium_does_not_give_is_zeros_and_named(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    write(folder / "failing", b"d" * 12_288)
    fill = Content._fill

    def failing(self: Content, offset: int, view: memoryview) -> None:
        if self.size == 12_288 and offset <= 4096 < offset + len(view):
            raise OSError(5, "Input/output error")
        fill(self, offset, view)

    monkeypatch.setattr(Content, "_fill", failing)
    kept.keep()
    assert kept.trouble == (
        f"These could not be read in part, and have zeros there: {folder}/failing.",
    )
    expected = b"d" * 4096 + bytes(4096) + b"d" * 4096
    assert content_of(kept, folder / "failing") == expected


def test_patterns_leave_out_names_and_whole_paths(tmp_path: Path, folder: Path):
    for name in ("a.tmp", "keep", "cache/inner", "sub/cache/file", "sub/a.tmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, b"")
    kept = Kept(tmp_path / "files.img", folder, exclude=("*.tmp", f"{folder}/cache", "1*"))
    kept.keep()
    there = names_in(kept, folder)
    assert {"keep", "sub", "2"} <= there
    assert not {"a.tmp", "cache", "1", "10"} & there
    assert names_in(kept, folder / "sub") == {"cache"}


def test_files_that_are_larger_are_left_out_and_counted(tmp_path: Path, folder: Path):
    """Also one that has grown since: the point before has it, the next one has not."""
    write(folder / "large", b"l" * 10_001)
    (folder / "a folder").mkdir()
    kept = Kept(tmp_path / "files.img", folder, largest=10_000)
    kept.keep()
    there = {"a folder", *map(str, range(20))}
    assert names_in(kept, folder) == there
    assert "1 file is larger than what is wanted, and left out." in kept.remark
    write(folder / "7", b"s" * 10_001)
    write(folder / "large", b"l" * 10_000)
    kept.keep()
    assert names_in(kept, folder) == there - {"7"} | {"large"}


def test_what_is_left_out_from_now_on_is_gone(tmp_path: Path, kept: Kept, folder: Path):
    kept.keep()
    fewer = Kept(kept.image, folder, exclude=("1*",))
    fewer.keep()
    assert names_in(fewer, folder) == {str(each) for each in range(20) if str(each)[0] != "1"}


def test_folders_marked_as_caches_are_left_out_and_that_is_said(tmp_path: Path, folder: Path):
    cache = folder / "cache"
    cache.mkdir()
    write(cache / "CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n# a cache")
    write(cache / "made", b"again")
    kept = Kept(tmp_path / "files.img", folder)
    kept.keep()
    assert names_in(kept, cache) == {"CACHEDIR.TAG"}
    assert "The content of 1 folder that is marked as a cache is left out." in kept.remark
    everything = Kept(tmp_path / "all.img", folder, caches=True)
    everything.keep()
    assert names_in(everything, cache) == {"CACHEDIR.TAG", "made"}


def test_the_repository_is_left_out_and_that_is_said(kept: Kept, folder: Path):
    (folder / "backups").mkdir()
    write(folder / "backups" / "layer", b"large")
    kept.keep(apart=(folder / "backups",))
    assert names_in(kept, folder / "backups") == set()
    assert f"The repository {folder}/backups is left out." in kept.remark


@pytest.mark.usefixtures("as_root")
def test_other_file_systems_are_left_out_unless_they_are_wanted(tmp_path: Path, folder: Path):
    from tests.sources.loops import mounted

    with mounted("none", folder / "usb", "-t", "tmpfs") as stick:
        write(stick / "file", b"")
        kept = Kept(tmp_path / "files.img", folder)
        kept.keep()
        assert names_in(kept, stick) == set()
        assert f"mounted at {stick}, are left out" in kept.remark
        everything = Kept(tmp_path / "all.img", folder, crosses=True)
        everything.keep()
        assert names_in(everything, stick) == {"file"}


def test_one_of_several_choices_that_is_away_stays_as_it_was_and_is_named(
    tmp_path: Path, folder: Path
):
    other = tmp_path / "other"
    other.mkdir()
    write(other / "file", b"content")
    kept = Kept(tmp_path / "files.img", folder, other)
    kept.keep()
    other.rename(tmp_path / "away")
    kept.keep()
    assert content_of(kept, other / "file") == b"content"
    assert f"as the point before has them: {other}." in kept.trouble[0]
    folder.rename(tmp_path / "away, too")
    with pytest.raises(SourceNotFound):
        kept.keep()


def test_a_chosen_folder_on_which_its_drive_is_not_mounted_stays_as_it_was_and_is_named(
    tmp_path: Path, kept: Kept, folder: Path
):
    settled(folder)
    kept.keep()
    drive = folder.rename(tmp_path / "drive")
    folder.mkdir()
    for _ in range(2):
        kept.keep()
        assert len(names_in(kept, folder)) == 20
        assert kept.trouble[0].endswith(f"stay as the point before has them: {folder}.")
    folder.rmdir()
    drive.rename(folder)
    kept.keep()
    assert kept.trouble == ()
    for each in folder.iterdir():
        each.unlink()
    kept.keep()
    assert (names_in(kept, folder), kept.trouble) == (set(), ())


def test_a_set_that_grows_beyond_its_disk_gets_a_larger_one():
    gib = 1 << 30
    first = blank.size_for(3 * gib, 1000, None)
    assert first == blank.LEAST
    assert blank.size_for(13 * gib, 1000, first) == first
    assert blank.size_for(15 * gib, 1000, first) == 64 * gib
    assert blank.size_for(gib, 600_000, first) > first  # it has no inodes for so many


def test_a_cancel_is_heard_in_the_midst_of_a_file(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    write(folder / "large", bytes(range(256)) * 20_000)
    task = Task(cancel=CancelToken())
    readinto = Content.readinto

    def cancelling(self: Content, offset: int, view: memoryview) -> None:
        task.cancel.cancel()
        readinto(self, offset, view)

    monkeypatch.setattr(Content, "readinto", cancelling)
    with pytest.raises(Cancelled):
        kept.keep(task)
    assert not kept.image.exists()


def test_an_ordinary_user_keeps_what_that_user_may_read(read: list[str]):
    """Nothing is mounted, and no program of root's is asked."""
    with open_folder() as place, as_an_ordinary_user():
        folder = place / "chosen"
        folder.mkdir()
        write(folder / "mine", b"mine")
        write(folder / "hidden", b"nobody may read this")
        (folder / "hidden").chmod(0)
        (folder / "closed").mkdir(mode=0)
        kept = Kept(place / "files.img", folder)
        kept.keep()
        assert content_of(kept, folder / "mine") == b"mine"
        write(folder / "mine", b"changed")
        kept.keep()
        assert content_of(kept, folder / "mine") == b"changed"
        assert names_in(kept, folder) == {"mine", "closed"}
        closed = f"These folders could not be read: {folder}/closed (Permission denied)."
        assert kept.trouble == (
            f"These could not be read, and are not in the point: {folder}/hidden.",
            f"{closed} What the point before has of them stays.",
        )
        (folder / "closed").chmod(0o700)
