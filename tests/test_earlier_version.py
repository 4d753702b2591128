"""What version 539fb76 has left (before the records had one codec) goes on working.

`earlier/539fb76.tar.xz` holds what it wrote: for each format a repository with two points of an
8 MiB disk and a session kept on the second, the settings that know them, and the disk. Its boot
code counts its boots at byte 65,536: there stands 2 in the first point, 4 in the second, and 5 on
the session's disk. The paths in its records are made those of the test.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from vdbackup.cli import main
from vdbackup.settings import KnownSource, Settings, ThemeChoice, WindowState
from vdbackup.sources.reference import SourceRef

ARCHIVE = Path(__file__).with_name("earlier") / "539fb76.tar.xz"
WRITTEN_IN = "/var/tmp/vdbackup-539fb76"
FORMATS = ("vmdk", "vhd", "vhdx", "qcow2")
"""In the order in which their sessions were started."""
COUNT = 65_536


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with all of it, and an environment in which the settings are in force."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="tar")  # with the links to layers of the sessions' maps
    for record in tmp_path.rglob("*.json"):
        text = record.read_text()
        record.write_text(text.replace(WRITTEN_IN, str(tmp_path)))
    monkeypatch.setenv("VDBACKUP_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("VDBACKUP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("VDBACKUP_LOG_DIR", str(tmp_path / "logs"))
    return tmp_path


def with_count(image: bytes, count: int) -> bytes:
    return image[:COUNT] + bytes([count]) + image[COUNT + 1 :]


def test_its_settings_are_in_force(earlier: Path) -> None:
    disk = SourceRef.of_path(earlier / "disk.img")
    assert Settings.load(earlier / "config" / "settings.json") == Settings(
        repositories=tuple(earlier / each for each in FORMATS),
        sources=tuple(KnownSource(disk, earlier / each, "disk") for each in FORMATS),
        theme=ThemeChoice.DARK,
        memory_mib=512,
        window=WindowState(size=(1200, 800)),
    )


def test_its_points_are_listed_verified_restored_gone_on_with_promoted_and_merged(
    earlier: Path, disk_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = ["-r", str(earlier / disk_format)]
    image = earlier / "disk.img"
    second = image.read_bytes()

    def run(*arguments: str, status: int = 0) -> str:
        assert main(list(arguments)) == status, capsys.readouterr()
        return capsys.readouterr().out

    def numbers() -> list[int]:
        points = json.loads(run("list", *repository, "--json"))["sets"][0]["points"]
        return [point["sequence"] for point in points]

    def restored(point: str) -> bytes:
        target = earlier / "restored.img"
        run("restore", *repository, point, str(target), "--overwrite")
        return target.read_bytes()

    assert numbers() == [1, 2]
    run("verify", *repository)
    assert restored("1") == with_count(second, 2)
    assert restored("2") == second == with_count(second, 4)

    third = with_count(second, 9)
    image.write_bytes(third)
    run("backup", str(image), *repository)
    ids = [each["id"] for each in json.loads(run("sessions", "list", "--json"))]
    session = ids[FORMATS.index(disk_format)]
    run("sessions", "promote", session)
    assert numbers() == [1, 2, 3, 4]
    assert restored("3") == third
    assert restored("4") == with_count(second, 5)

    run("merge", *repository, "2")
    assert numbers() == [2, 3, 4]
    run("verify", *repository)
    assert [restored(each)[COUNT] for each in ("latest", "4")] == [9, 5]
