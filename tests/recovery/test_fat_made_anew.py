"""A FAT that is made anew, alone: what is kept, and what cannot be and is refused before."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.noise import noise
from tests.sources.loops import run
from vdbackup.errors import NotResized
from vdbackup.recovery import fat_sizes
from vdbackup.recovery.fat_files import files_of
from vdbackup.recovery.fat_sizes import FAT, check_can_be_made_anew, make_fat_anew

MIB = 1 << 20


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("MTOOLS_SKIP_CHECK", "1")


@pytest.fixture
def fat(tmp_path: Path) -> Path:
    """A FAT32 of 60 MiB on a partition of 80."""
    file = tmp_path / "fat"
    with file.open("wb") as opened:
        opened.truncate(60 * MIB)
    run("mkfs.fat", "-F", "32", "-s", "1", "-n", "PHOTOS", file)
    with file.open("r+b") as opened:
        opened.truncate(80 * MIB)
    return file


def put(fat: Path, name: str, data: bytes = b"data", when: int = 1_500_000_000) -> None:
    source = fat.with_name("source")
    source.write_bytes(data)
    os.utime(source, (when, when))
    run("mcopy", "-m", "-i", fat, source, f"::/{name}")


def rename(fat: Path, name: str, becomes: str) -> None:
    """Change letters of a long name, which mtools would not write, where it is stored."""
    data = bytearray(fat.read_bytes())
    before, after = (each.encode("utf-16-le") for each in (name, becomes))
    assert len(before) == len(after) <= 10
    at = data.index(before)
    data[at : at + len(before)] = after
    fat.write_bytes(data)


def test_all_of_it_is_kept(fat: Path) -> None:
    put(fat, "größe 1.jpg", noise(3 * MIB, 1))
    put(fat, "small.txt")
    put(fat, "SHORT.TXT")
    put(fat, ".Trashes", b"")
    put(fat, "in spring.txt", when=1_490_495_400)  # 02:30 UTC on a day when clocks go forward
    run("mmd", "-i", fat, "::/a folder", "::/a folder/EMPTY")
    put(fat, "a folder/zeros", bytes(MIB))
    run("mattrib", "+h", "+s", "+r", "-i", fat, "::/.Trashes")
    before, number = files_of(fat, read=True), fat.read_bytes()[67:71]
    FAT.check(fat)
    FAT.resize(fat, 80 * MIB)
    assert files_of(fat, read=True) == before
    assert fat.read_bytes()[67:71] == number
    run("fsck.fat", "-n", fat)
    assert struct.unpack_from("<I", fat.read_bytes(), 32)[0] * 512 == 80 * MIB
    make_fat_anew(fat, 4096, 2048)
    assert files_of(fat, read=True) == before


def test_who_is_killed_meanwhile_leaves_nothing_and_has_changed_nothing(
    fat: Path, tmp_path: Path
) -> None:
    put(fat, "a file", noise(3 * MIB, 1))
    before, temporary = fat.read_bytes(), tmp_path / "temporary"
    temporary.mkdir()
    killed = (
        "import os, pathlib, sys; from vdbackup.recovery import fat_sizes; "
        "fat_sizes._set_flags = lambda *_: os.kill(os.getpid(), 9); "
        f"fat_sizes.FAT.resize(pathlib.Path(sys.argv[1]), {80 * MIB})"
    )
    done = subprocess.run(
        [sys.executable, "-c", killed, fat],
        check=False,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert done.returncode == -signal.SIGKILL
    assert list(temporary.iterdir()) == []
    assert fat.read_bytes() == before


def test_a_path_with_signs_of_the_programs_own_is_no_other_one(fat: Path) -> None:
    put(fat, "a file", noise(MIB, 1))
    odd = fat.with_name('quo"te $x')
    fat.rename(odd)
    before = files_of(odd, read=True)
    FAT.resize(odd, 80 * MIB)
    assert files_of(odd, read=True) == before


def test_a_label_that_its_system_changed_in_the_folder_alone_is_kept(fat: Path) -> None:
    data = bytearray(fat.read_bytes())
    at = data.index(b"PHOTOS     ", 4096)
    data[at : at + 11] = b"B\x9aCHER     "
    data[71:82] = data[6 * 512 + 71 : 6 * 512 + 82] = b"NO NAME    "
    fat.write_bytes(data)
    put(fat, "file")
    FAT.resize(fat, 80 * MIB)
    made = fat.read_bytes()
    assert made[71:82] == b"NO NAME    "
    assert b"B\x9aCHER     " in made[: 2 * MIB]
    assert b"LABEL" not in made[: 2 * MIB]


def test_two_names_that_mtools_takes_for_one_are_refused_before_anything_is_done(
    fat: Path,
) -> None:
    put(fat, "ää Ab.jpg", b"one")
    put(fat, "öö Ab.jpg", b"other")
    rename(fat, "ää", "\N{CAMERA}")
    rename(fat, "öö", "\N{MOVIE CAMERA}")
    assert set(files_of(fat, read=False)) == {"/\N{CAMERA} Ab.jpg", "/\N{MOVIE CAMERA} Ab.jpg"}
    before = fat.read_bytes()
    for refuses in (FAT.check, check_can_be_made_anew, lambda file: FAT.resize(file, 80 * MIB)):
        with pytest.raises(NotResized, match="name that cannot be kept") as refused:
            refuses(fat)
        assert "\N{CAMERA}" in refused.value.advice
    assert fat.read_bytes() == before


def test_a_name_in_letters_of_a_code_page_that_mtools_changes_is_refused_before(fat: Path) -> None:
    put(fat, "größe.jpg")  # a short name, and a flag for small letters
    with pytest.raises(NotResized, match="name that cannot be kept"):
        FAT.check(fat)


def test_a_name_that_is_too_long_for_the_folder_between_is_refused_before(fat: Path) -> None:
    put(fat, "ж" * 127)  # as long as it can be there: put in by this folder
    FAT.check(fat)
    data = bytearray(fat.read_bytes())
    for at in range(0, 4 * MIB, 2):  # three bytes each, as letters of Chinese
        if data[at : at + 2] == b"\x36\x04":
            data[at : at + 2] = "中".encode("utf-16-le")
    fat.write_bytes(data)
    at = fat.read_bytes()
    with pytest.raises(NotResized, match="name that cannot be kept"):
        FAT.check(fat)
    assert fat.read_bytes() == at


def test_what_is_found_to_be_otherwise_is_not_put_in_its_place(
    fat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(fat, "file", b"data")
    run("mattrib", "+r", "-i", fat, "::/file")
    before = fat.read_bytes()
    monkeypatch.setattr(fat_sizes, "_set_flags", lambda *_: None)
    with pytest.raises(NotResized, match="Not all"):
        FAT.resize(fat, 80 * MIB)
    assert fat.read_bytes() == before


def test_a_dirty_one_is_mended_and_one_that_would_lose_something_is_refused(fat: Path) -> None:
    put(fat, "file", noise(MIB, 3))
    put(fat, "other", noise(MIB, 4))
    data = bytearray(fat.read_bytes())
    data[65] |= 1  # was not unmounted
    fat.write_bytes(data)
    FAT.check(fat)
    assert set(files_of(fat, read=False)) == {"/file", "/other"}
    data = bytearray(fat.read_bytes())
    table = 32 * 512
    for copy in (table, table + struct.unpack_from("<I", data, 36)[0] * 512):
        struct.pack_into("<I", data, copy + 4 * 100, 0x0FFFFFFF)  # its chain ends early
    fat.write_bytes(data)
    with pytest.raises(NotResized, match="damaged"):
        FAT.check(fat)


def test_one_that_a_computer_starts_from_keeps_its_size(fat: Path) -> None:
    put(fat, "IO.SYS")
    with pytest.raises(NotResized, match="starts from"):
        FAT.check(fat)


def test_the_room_that_it_takes_is_asked_for_before(
    fat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(fat, "file", noise(2 * MIB, 3))
    full = shutil._ntuple_diskusage(1 << 30, 1 << 30, 3 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    for refuses in (FAT.check, FAT.least, check_can_be_made_anew):
        with pytest.raises(NotResized) as refused:
            refuses(fat)
        assert "TMPDIR" in refused.value.advice
