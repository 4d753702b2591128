"""Machines boot from recovery points, and the backup stays as it was captured."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.guests import boot_sector, tiny_linux

LIMIT = 240  # seconds; a translated machine on a busy computer


def hashes(repository: Path) -> dict[str, str]:
    """SHA-256 of every layer and overlay."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(repository.rglob("*.vmdk"))
    }


@pytest.fixture
def linux(tmp_path: Path) -> Path:
    """The disk of a Linux that counts its boots."""
    disk = Path(shutil.copy(tiny_linux.image(), tmp_path / "linux.img"))
    disk.chmod(0o600)
    return disk


@pytest.mark.long  # one boots from an incremental in recovery/sessions, and is promoted there
def test_a_linux_boots_from_an_incremental_and_from_what_a_merge_has_made(
    vdbackup: Vdbackup, linux: Path, repository: Path
):
    for count in (10, 20, 30):
        tiny_linux.set_boot_count(linux, count)
        assert vdbackup("backup", linux, "-r", repository).status == 0
    says = "VDBACKUP-BOOT-OK root=/dev/vda2 count={}"
    boots_from_an_incremental_and_a_merged_point(vdbackup, repository, says, (31, 21))


def test_a_machine_boots_from_an_incremental_and_from_what_a_merge_has_made(
    vdbackup: Vdbackup, tmp_path: Path, repository: Path
):
    disk = boot_sector.make(tmp_path / "counts.img", boot_sector.COUNT)
    for count in (2, 4, 6):
        with disk.open("r+b") as file:
            file.seek(boot_sector.COUNT_AT)
            file.write(bytes([count]))
        assert vdbackup("backup", disk, "-r", repository).status == 0
    boots_from_an_incremental_and_a_merged_point(
        vdbackup, repository, "{}", (7, 5), "--hardware", "ide"
    )


def boots_from_an_incremental_and_a_merged_point(
    vdbackup: Vdbackup, repository: Path, says: str, counts: tuple[int, int], *hardware: str
) -> None:
    """The third of three points, and the second once it is the first; both stay as they were."""
    for point, count in zip((3, 2), counts, strict=True):
        if point == 2:
            assert vdbackup("merge", 2, "-r", repository).status == 0
        before = hashes(repository)
        said = vdbackup(
            "boot", point, "-r", repository, "--headless", "--timeout", LIMIT,
            "--until", says.format(count), *hardware,
        )  # fmt: skip
        assert said.status == 0, said.err
        assert hashes(repository) == before, "what it wrote has reached the backup"
    points = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"]
    assert [point["boot_tested"]["ok"] for point in points] == [True, True]


def test_a_boot_leaves_a_picture_of_its_screen(vdbackup: Vdbackup, disk: Path, tmp_path: Path):
    vdbackup("backup", disk, "-r", tmp_path / "demo")
    picture = tmp_path / "screen.png"
    said = vdbackup(
        "boot", "latest", "-r", tmp_path / "demo", "--headless", "--timeout", LIMIT,
        "--until", "the first state", "--screenshot", picture, "--json",
    )  # fmt: skip
    assert said.status == 0
    assert said.json["reached"]
    assert "the first state" in said.json["console"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def ends(vdbackup: Vdbackup, tmp_path: Path) -> Path:
    """A repository with a point of a machine that says its last words and switches itself off."""
    last = boot_sector.say("all is done") + boot_sector.SWITCH_OFF
    disk = boot_sector.make(tmp_path / "ends.img", last)
    assert vdbackup("backup", disk, "-r", tmp_path / "ends").status == 0
    return tmp_path / "ends"


AS_IT_IS = ("--headless", "--hardware", "ahci")


def test_a_machine_that_is_off_before_its_picture_was_taken_is_a_warning(
    vdbackup: Vdbackup, ends: Path, tmp_path: Path
):
    picture = tmp_path / "screen.png"
    said = vdbackup("boot", 1, "-r", ends, *AS_IT_IS, "--screenshot", picture)
    assert said.status == 3
    assert "no picture of the screen" in said.err


def test_a_text_that_never_comes_ends_at_the_time_limit(
    vdbackup: Vdbackup, disk: Path, tmp_path: Path
):
    repository = tmp_path / "demo"
    assert vdbackup("backup", disk, "-r", repository).status == 0
    said = vdbackup(
        "boot", 1, "-r", repository, "--headless", "--until", "never said", "--timeout", 1
    )
    assert said.status == 1
    assert "did not print 'never said' within 1 s" in said.err
    point = vdbackup("list", "-r", repository, "--json").json["sets"][0]["points"][0]
    assert point["boot_tested"]["ok"] is False


def test_a_machine_that_ends_without_the_text_is_a_failure_with_its_last_words(
    vdbackup: Vdbackup, ends: Path
):
    said = vdbackup("boot", 1, "-r", ends, *AS_IT_IS, "--until", "never said", "--timeout", LIMIT)
    assert said.status == 1
    assert "without printing 'never said'" in said.err
    assert "all is done" in said.err


def test_a_machine_that_ends_by_itself_is_a_success(vdbackup: Vdbackup, ends: Path):
    assert vdbackup("boot", 1, "-r", ends, *AS_IT_IS, "--timeout", LIMIT).status == 0


def test_what_was_chosen_and_why_is_said(vdbackup: Vdbackup, linux: Path, repository: Path):
    assert vdbackup("backup", linux, "-r", repository).status == 0
    loader = "SYSLINUX"  # it speaks seconds before the kernel does
    options = ["-r", repository, "--headless", "--timeout", LIMIT, "--until", loader]
    said = vdbackup("boot", 1, *options, "--json").json
    assert said["hardware"]["controller"] == "virtio"
    assert said["hardware"]["firmware"] == "bios"
    assert "virtio: the system has its driver early." in said["hardware"]["reasons"]
    said = vdbackup("boot", 1, *options, "--hardware", "ide", "--memory", 256)
    assert said.status == 0
    assert "IDE, as you asked for." in said.out


def test_a_disk_without_a_system_is_refused(vdbackup: Vdbackup, tmp_path: Path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    assert vdbackup("backup", disk, "-r", tmp_path / "backups").status == 0
    said = vdbackup("boot", 1, "-r", tmp_path / "backups", "--headless")
    assert said.status == 1
    assert "There is nothing on this disk that could be started" in said.err


def test_a_machine_gets_the_disk_of_chosen_files_behind_its_own(
    vdbackup: Vdbackup, disk: Path, tmp_path: Path
):
    repository, chosen = tmp_path / "backups", tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "file").write_text("one")
    assert vdbackup("backup", disk, "-r", repository, "--set", "web").status == 0
    assert vdbackup("backup", "--files", chosen, "-r", repository).status == 0
    asked = ("boot", "latest", "--set", "web", "-r", repository, "--headless", "--keep")
    says = ("--until", "the first state", "--timeout", LIMIT)
    assert vdbackup(*asked, *says, "--attach", "chosen/1").status == 0
    (session,) = vdbackup("sessions", "list", "--json").json
    assert [each["set"] for each in session["attached"]] == ["chosen"]
    assert vdbackup("sessions", "discard", session["id"]).status == 0


@pytest.mark.parametrize(
    ("attach", "status", "why"),
    [
        ("nothing", 1, "no backup set 'nothing'"),
        ("web/latest", 1, "The machine has a disk of web already."),
        ("web/2/3", 2, "neither a set nor one with a point"),
        ("/3", 2, "neither a set nor one with a point"),
    ],
)
def test_what_cannot_be_attached_is_refused_before_anything_starts(
    vdbackup: Vdbackup, disk: Path, tmp_path: Path, attach: str, status: int, why: str
):
    repository = tmp_path / "backups"
    assert vdbackup("backup", disk, "-r", repository, "--set", "web").status == 0
    said = vdbackup("boot", "latest", "-r", repository, "--headless", "--attach", attach)
    assert (said.status, why in said.err) == (status, True), said.err
    assert vdbackup("sessions", "list", "--json").json == []


@pytest.fixture
def web(vdbackup: Vdbackup, tmp_path: Path) -> Path:
    """A repository with a moment of a machine that starts from the first of its two disks."""
    root = boot_sector.make(tmp_path / "root.img", boot_sector.say("root is up"))
    home = boot_sector.make(tmp_path / "home.img", boot_sector.say("not from here"))
    folder = tmp_path / "web"
    assert vdbackup("backup", root, home, "--machine", "web", "-r", folder).status == 0
    return folder


@pytest.mark.parametrize("lost", ["*", "*.vmdk"], ids=["all of its set", "its layer alone"])
def test_a_machine_that_has_lost_a_disk_starts_without_it_once_that_is_asked_for(
    vdbackup: Vdbackup, web: Path, lost: str
):
    for each in (web / "home").glob(lost):
        each.unlink()
    asked = ("boot", 1, "--machine", "web", "-r", web, "--headless", "--timeout", LIMIT)
    says = ("--until", "root is up", "--hardware", "ide")
    assert vdbackup(*asked, *says).status == 1
    said = vdbackup(*asked, *says, "--without-missing")
    assert said.status == 3, said.err
    assert "The machine starts without home, which is missing or damaged." in said.err


def test_a_moment_that_is_not_whole_says_how_it_boots_all_the_same(vdbackup: Vdbackup, web: Path):
    shutil.rmtree(web / "home")
    asked = ("boot", 1, "--machine", "web", "-r", web, "--headless")
    refused = vdbackup(*asked)
    assert refused.status == 1
    assert "`vdbackup boot --without-missing` starts it without." in refused.err
    shutil.rmtree(web / "root")
    assert vdbackup(*asked, "--without-missing").status == 1
