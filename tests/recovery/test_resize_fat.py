"""A FAT32 with somebody's files on a disk of another size."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.recovery.test_resize import identities, part_of, places, planned, restored, sized
from tests.sources.loops import run
from vdbackup.errors import NotResized

MIB = 1 << 20
PART = 160
pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "photos [2019]").mkdir(parents=True)
    for number in range(40):
        (folder / "photos [2019]" / f"größe {number}.jpg").write_bytes(noise(300_000, number))
    (folder / "hidden.txt").write_text("nobody sees it")
    return folder


def lab_with(files: Path, tmp_path: Path, kind: str = "type=0700") -> Lab:
    """An ext4 that is full, and a FAT32 behind it."""
    lab = Lab(tmp_path, 200 * MIB, disk_format="qcow2")
    kind = "type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7" if kind == "type=0700" else kind
    script = f"label: gpt\nstart=1M,size=16M,type=L\nstart=17M,size={PART}M,{kind}\n"
    run("sfdisk", "-q", lab.image, stdin=script)
    part = tmp_path / "fat"
    with part.open("wb") as file:
        file.truncate(PART * MIB)
    run("mkfs.fat", "-F", "32", "-s", "1", "-n", "PHOTOS", part)
    run("mcopy", "-s", "-Q", "-m", "-i", part, *sorted(files.iterdir()), "::/")
    run("mattrib", "+h", "+s", "-i", part, "::/hidden.txt")
    run("mattrib", "+r", "-i", part, "::/photos [[]2019]/größe 7.jpg")
    with part.open("rb") as read:
        for at in range(PART):
            read.seek(at * MIB)
            data = read.read(MIB)
            if any(data):
                lab.poke((17 + at) * MIB, data)
    lab.backup()
    return lab


def assert_holds(part: Path, files: Path, folder: Path) -> None:
    run("fsck.fat", "-n", part)
    folder.mkdir()
    run("mcopy", "-s", "-Q", "-n", "-m", "-i", part, "::/*", folder)
    run("diff", "--recursive", files, folder)
    for each in files.rglob("*.jpg"):
        seen = folder / each.relative_to(files)
        assert abs(seen.stat().st_mtime - each.stat().st_mtime) <= 2  # what a FAT counts in
    shown = run("mattrib", "-/", "-X", "-i", part, "::/")
    assert {"ASH ::/hidden.txt", "AR ::/photos [2019]/größe 7.jpg"} <= set(shown.splitlines())


def test_it_grows_where_that_is_said(files: Path, tmp_path: Path) -> None:
    lab = lab_with(files, tmp_path)
    assert planned(lab, sized(tmp_path / "t.img", 300 * MIB)).fitting is None  # nobody said so
    target = sized(tmp_path / "target.img", 300 * MIB)
    restored(lab, target, grown=2)
    assert places(target) == [(1, 16), (17, 282)]
    assert identities(target) == identities(lab.image)
    part = part_of(target, 2, tmp_path)
    assert_holds(part, files, tmp_path / "seen")
    free = int(
        run("mdir", "-i", part, "::/").split("bytes free")[0].splitlines()[-1].replace(" ", "")
    )
    assert free > 250 * MIB


def test_it_becomes_smaller_in_an_overlay_and_the_point_stays(files: Path, tmp_path: Path) -> None:
    lab = lab_with(files, tmp_path)
    target, before = sized(tmp_path / "target.img", 120 * MIB), lab.files
    restored(lab, target)
    assert places(target)[1][1] < PART
    assert identities(target) == identities(lab.image)
    assert_holds(part_of(target, 2, tmp_path), files, tmp_path / "seen")
    assert lab.files == before


def test_what_is_too_small_for_its_files_is_refused_with_the_figure(
    files: Path, tmp_path: Path
) -> None:
    lab = lab_with(files, tmp_path)
    with pytest.raises(NotResized, match=r"has 40 MiB, and the disk needs \d+ MiB") as refused:
        planned(lab, sized(tmp_path / "target.img", 40 * MIB))
    needed = int(refused.value.title.split()[-4])
    target = sized(tmp_path / "target.img", (needed + 1) * MIB)
    restored(lab, target)
    assert_holds(part_of(target, 2, tmp_path), files, tmp_path / "seen")


def test_what_firmware_reads_keeps_its_size(files: Path, tmp_path: Path) -> None:
    lab = lab_with(files, tmp_path, "type=U")
    with pytest.raises(NotResized, match="Partition 2 cannot be made larger"):
        planned(lab, sized(tmp_path / "target.img", 300 * MIB), grown=2)
    with pytest.raises(NotResized) as refused:
        planned(lab, sized(tmp_path / "target.img", 120 * MIB))
    assert "Partition 2 (fat) cannot be made smaller." in refused.value.advice


def test_without_room_for_its_files_it_is_left_as_it_is(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_with(files, tmp_path)
    full = shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(NotResized) as refused:
        planned(lab, sized(tmp_path / "target.img", 120 * MIB))
    assert "TMPDIR" in refused.value.advice
