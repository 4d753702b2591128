"""Nobody has another one's files kept by putting a link where a folder was, while root reads it.

And what is named by what cannot be said as one path is kept: by folders, a way is as long as it is.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.sources.file_sets.kept import Kept
from vdbackup.sources.file_sets.places import Place, Places, attributes_of

SECRET = b"what only root may read " * 100
ROUNDS = 4


@contextmanager
def swapped(folders: list[Path], other: Path) -> Iterator[None]:
    """Folders become links to another one and folders again, as fast as can be, by a thread."""
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for folder in folders:
                away = folder.with_name(f"{folder.name} away")
                os.rename(folder, away)
                os.symlink(other, folder)
                os.unlink(folder)
                os.rename(away, folder)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def holds(image: Path, data: bytes) -> bool:
    """Whether an image has these bytes anywhere; it is large, and mostly holes."""
    at = 0
    with image.open("rb") as file, suppress(OSError):  # nothing more but a hole (ENXIO)
        while True:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            if data in os.pread(file.fileno(), end - at, at):
                return True
            at = end
    return False


def test_a_folder_swapped_for_a_link_while_it_is_read_gives_no_other_ones_files(tmp_path: Path):
    secret, chosen = tmp_path / "secret", tmp_path / "chosen"
    folders = [chosen / f"{number}" for number in range(8)]
    for folder in (secret, *folders):
        folder.mkdir(parents=True)
        for number in range(20):
            (folder / f"{number}").write_bytes(SECRET if folder == secret else b"mine")
    image = tmp_path / "files.img"
    with swapped(folders, secret):
        for _ in range(ROUNDS):
            Kept(image, chosen).keep()
            assert not holds(image, SECRET[:24])
            image.unlink()


def test_a_link_on_the_way_is_not_gone_through(tmp_path: Path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("folder")
    with Places() as places:
        for name in ("link", "link/inner"):
            with pytest.raises(NotADirectoryError):
                places.to(os.fsencode(tmp_path / name))
        found = places.to(os.fsencode(tmp_path / "folder" / "inner")).found
        assert found.st_ino == (tmp_path / "folder" / "inner").stat().st_ino


def test_a_file_that_is_saved_anew_before_it_is_opened_is_kept_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As editors do: under its name there is another file from one moment to the next."""
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "letter").write_bytes(b"before")
    replaced_after_look(monkeypatch, chosen / "letter", lambda new: new.write_bytes(b"after"), 1)
    kept = Kept(tmp_path / "files.img", chosen)
    kept.keep()
    assert kept.trouble == ()
    assert holds(kept.image, b"after")


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFLNK])
def test_a_file_that_becomes_something_else_before_it_is_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
):
    """A pipe, above all, that nobody writes to: whoever opens it waits."""
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "letter").write_bytes(b"before")
    make = os.mkfifo if kind == stat.S_IFIFO else lambda new: os.symlink("/etc/passwd", new)
    replaced_after_look(monkeypatch, chosen / "letter", make, 1)
    kept = Kept(tmp_path / "files.img", chosen)
    kept.keep()
    said = f"These could not be read, and are not in the point: {chosen}/letter."
    assert kept.trouble == (said,)


def test_a_file_that_is_another_one_each_time_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "letter").write_bytes(b"before")
    replaced_after_look(monkeypatch, chosen / "letter", lambda new: new.write_bytes(b"after"), 99)
    kept = Kept(tmp_path / "files.img", chosen)
    kept.keep()
    assert len(kept.trouble) == 1
    assert f"{chosen}/letter" in kept.trouble[0]


def replaced_after_look(
    monkeypatch: pytest.MonkeyPatch, path: Path, make: object, times: int
) -> None:
    """Another file takes a name whenever it was looked at, so many times, from the second on.

    The first time it is counted.
    """
    look, seen = Place.look, []

    def looking(place: Place, name: bytes) -> os.stat_result:
        found = look(place, name)
        if name == os.fsencode(path.name):
            seen.append(name)
            if 1 < len(seen) <= times + 1:
                new = path.with_name("new")
                make(new)  # type: ignore[operator]
                os.rename(new, path)
        return found

    monkeypatch.setattr(Place, "look", looking)


def test_a_way_longer_than_a_path_may_be_is_gone(tmp_path: Path):
    """The kernel takes 4,096 bytes at once; names lie deeper than that in real trees."""
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    deep = 30
    here = os.open(chosen, os.O_RDONLY)
    for number in range(deep):
        name = f"{number:02}" + "n" * 250
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    fd = os.open("at the end", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(fd, b"it was reached")
    os.close(fd)
    os.close(here)
    kept = Kept(tmp_path / "files.img", chosen)
    kept.keep()
    assert kept.trouble == ()
    assert holds(kept.image, b"it was reached")
    shutil.rmtree(chosen)


def test_only_so_many_folders_stay_open(tmp_path: Path):
    deep = tmp_path.joinpath(*["d"] * 200)
    deep.mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    with Places() as places:
        for path in (deep, tmp_path, deep.parent, tmp_path / "d" / "d"):
            assert places.to(os.fsencode(path)).found.st_ino == path.stat().st_ino
            assert len(os.listdir("/proc/self/fd")) < before + 70
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("as_root")
def test_what_is_only_named_tells_its_attributes_and_what_is_no_longer_there_is_not_asked(
    tmp_path: Path,
):
    (tmp_path / "link").symlink_to("nowhere")
    os.setxattr(tmp_path / "link", "trusted.of a link", b"1", follow_symlinks=False)
    with Places() as places, places.to(os.fsencode(tmp_path)).opened(b"link") as fd:
        (tmp_path / "link").unlink()
        assert attributes_of(fd) == {"trusted.of a link": b"1"}
