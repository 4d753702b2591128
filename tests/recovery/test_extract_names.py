"""Extraction to file systems that cannot have every name: one is left out, the others come."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources.loops import detach, unmount
from tests.volumes import volumes
from tests.volumes.volumes import MIB, browsing
from vdbackup.jobs import Task

ODD = ("a:b", "q?", "star*", "bar|", 'qu"ote', "less<")


def image_of(tmp_path: Path, *names: str) -> Path:
    tree = tmp_path / "tree"
    for name in (*names, "plain", "folder/plain"):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    image = tmp_path / "ext4.img"
    volumes.ext("ext4", size=16 * MIB)(tree, image)
    return image


def extract(image: Path, destination: Path) -> tuple[str, ...]:
    with browsing(image) as browser:
        return browser.extract(["/"], destination, Task())


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> int:
    """The destination answers ENOENT to names with a colon, as exFAT through FUSE does."""
    for name in ("open", "mkdir", "symlink"):
        monkeypatch.setattr(os, name, _answering(getattr(os, name)))
    return errno.ENOENT


def _answering(really):  # type: ignore[no-untyped-def]
    def call(path, *rest, **options):  # type: ignore[no-untyped-def]
        if ":" in str(path) and "dir_fd" in options:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return really(path, *rest, **options)

    return call


def test_a_name_that_is_not_found_leaves_out_that_file_alone(answers: int, tmp_path: Path) -> None:
    image = image_of(tmp_path, "a:b", "folder/c:d")
    warnings = extract(image, tmp_path / "out")
    assert sorted(warnings) == [
        f"/{name} is left out: the destination cannot hold it ({os.strerror(answers)})."
        for name in ("a:b", "folder/c:d")
    ]
    assert volumes.contents(tmp_path / "out") == {
        "plain": b"plain",
        "folder": None,
        "folder/plain": b"folder/plain",
    }


def test_a_folder_that_cannot_be_leaves_out_what_is_in_it(answers: int, tmp_path: Path) -> None:
    image = image_of(tmp_path, "fol:der/inner/file")
    (warning,) = extract(image, tmp_path / "out")
    assert warning.startswith("/fol:der is left out")
    assert "folder/plain" in volumes.contents(tmp_path / "out")


def test_a_destination_that_is_gone_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOENT is also what a folder says that was removed meanwhile."""
    image = image_of(tmp_path)
    really = os.open

    def removed(path, *rest, **options):  # type: ignore[no-untyped-def]
        if path == "plain":
            (tmp_path / "out").rmdir()
        return really(path, *rest, **options)

    (tmp_path / "tree/folder/plain").unlink()
    (tmp_path / "tree/folder").rmdir()
    image.unlink()
    volumes.ext("ext4", size=16 * MIB)(tmp_path / "tree", image)
    volumes.run("debugfs", "-w", "-R", "rmdir lost+found", image)
    monkeypatch.setattr(os, "open", removed)
    with pytest.raises(FileNotFoundError):
        extract(image, tmp_path / "out")


@pytest.fixture
def exfat(as_root: None, tmp_path: Path) -> Iterator[Path]:
    """A folder on which an exFAT of 64 MiB is mounted."""
    target, folder = tmp_path / "target.img", tmp_path / "target"
    volumes.blank(target, 64 * MIB)
    volumes.run("mkfs.exfat", target)
    folder.mkdir()
    device = volumes.run("losetup", "--find", "--show", target).strip()
    try:
        volumes.run("mount.exfat-fuse", device, folder)
        try:
            yield folder
        finally:
            unmount(folder)
    finally:
        detach(Path(device))


def test_names_that_exfat_cannot_have_are_left_out(exfat: Path, tmp_path: Path) -> None:
    image = image_of(tmp_path, *ODD, "Readme", "README", "fol:der/file")
    warnings = extract(image, exfat / "out")
    found = volumes.contents(exfat / "out")
    assert len(warnings) == len(ODD) + 2
    assert {"plain", "folder/plain"} <= set(found)
    (kept,) = {"Readme", "README"} & set(found)
    assert found[kept] == kept.encode()


def test_so_is_a_file_whose_holes_have_no_room_where_there_are_none(
    exfat: Path, tmp_path: Path
) -> None:
    """As /var/log/lastlog, which may be longer than the stick; what comes after it is not lost."""
    image = image_of(tmp_path, "another")
    tree = tmp_path / "tree"
    with (tree / "lastlog").open("wb") as file:
        file.write(b"somebody")
        file.truncate(1 << 30)
    image.unlink()
    volumes.ext("ext4", size=16 * MIB)(tree, image)
    (warning,) = extract(image, exfat / "out")
    assert warning.startswith("/lastlog is left out: the destination cannot hold it (No space")
    found = volumes.contents(exfat / "out")
    assert {"another", "plain", "folder/plain"} <= set(found)
    assert "lastlog" not in found
