"""mount and umount, as a shell and a program use them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.recovery.mount.points import kill_all_behind
from vdbackup.recovery.mount import mounting, table

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "look"
    folder.mkdir()
    yield folder
    if table.shown_at(folder) is not None:
        mounting.unmount(folder)


@pytest.mark.usefixtures("backed_up")
def test_a_point_is_a_folder_until_it_is_unmounted(
    vdbackup: Vdbackup, repository: Path, folder: Path
):
    said = vdbackup("mount", "-r", repository, "2", folder, "--background")
    assert said.status == 0
    assert said.out.splitlines()[0] == f"Point 2 is the folder {folder}."
    assert (folder / "p1" / "DIARY.TXT").read_bytes() == b"day 2"
    merge = vdbackup("merge", "-r", repository, "2")
    assert merge.status == 1
    assert "is in use: python" in merge.err
    assert vdbackup("umount", folder).status == 0
    assert os.listdir(folder) == []
    assert vdbackup("merge", "-r", repository, "2").status == 0


@pytest.mark.usefixtures("backed_up")
def test_programs_are_told_where_it_is_and_why_it_is_not(
    vdbackup: Vdbackup, repository: Path, folder: Path
):
    said = vdbackup("mount", "-r", repository, "latest", folder, "--background", "--json")
    assert said.json["event"] == "mounted"
    assert said.json["folder"] == str(folder)
    assert said.json["sequence"] == 3
    assert vdbackup("umount", folder, "--json").json == {"event": "result", "folder": str(folder)}
    again = vdbackup("umount", folder, "--json")
    assert again.status == 1
    assert json.loads(again.err)["code"] == "not-mounted"


def test_the_whole_disk_is_a_file_for_other_programs(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, folder: Path
):
    mount = ("mount", "-r", repository, "2", folder, "--as-disk", "--background")
    said = vdbackup(*mount, "--json").json
    assert said["volumes"] == ["disk.raw: 16 MiB"]
    assert os.listdir(folder) == ["disk.raw"]
    subprocess.run(["cmp", folder / "disk.raw", backed_up[1]], check=True)
    shown = (folder / "disk.raw").stat()
    assert shown.st_blocks * 512 < shown.st_size  # with its holes
    assert subprocess.run(["sfdisk", "--verify", folder / "disk.raw"], check=False).returncode == 0
    with pytest.raises(OSError, match="Read-only"):
        (folder / "disk.raw").open("r+b")
    assert vdbackup("umount", folder).status == 0
    said = vdbackup(*mount, "--unlock")
    assert said.status == 2
    assert "--as-disk" in said.err


@pytest.mark.usefixtures("backed_up")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_it_ends_as_one_ends_a_program(
    number: int, repository: Path, folder: Path
):
    command = [sys.executable, "-m", "vdbackup", "mount", "-r", repository.name, "1", folder.name]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        cwd=repository.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout
        said = process.stdout.readline().decode()
        assert said == f"Point 1 is the folder {folder}.\n"
        assert (folder / "p1" / "DIARY.TXT").read_bytes() == b"day 1"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert not mounting.is_mounted(folder)


@pytest.mark.usefixtures("backed_up")
def test_status_says_what_shows_a_point_and_what_does_no_more(
    vdbackup: Vdbackup, repository: Path, folder: Path
):
    assert vdbackup("mount", "-r", repository, "latest", folder, "--background").status == 0
    said = vdbackup("status", "-r", repository)
    assert f"{folder} shows point" in said.out
    kill_all_behind(folder)
    said = vdbackup("status", "-r", repository)
    assert said.status == 3
    assert f"{folder} shows nothing any more" in said.err

    def listed() -> list[bool]:  # other tests mount other points meanwhile
        mounts = vdbackup("status", "-r", repository, "--json").json["mounts"]
        return [each["dead"] for each in mounts if each["folder"] == str(folder)]

    assert listed() == [True]
    assert vdbackup("umount", folder).status == 0
    assert listed() == []
