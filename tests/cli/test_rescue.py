"""The medium's questions restore what was chosen where it was chosen, and nothing without a yes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.cli.conftest import Vdbackup
from tests.noise import noise
from tests.recovery.test_resize import places
from tests.sources.loops import loop, run
from vdbackup.locations import Locations
from vdbackup.rescue import ending, finding
from vdbackup.rescue.finding import FoundRepository
from vdbackup.settings import Settings
from vdbackup.sources import devices
from vdbackup.sources.devices import Candidate

MIB = 1 << 20
needs_root = pytest.mark.usefixtures("as_root")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A repository that is found on an attached disk: two points of a disk of 4 MiB."""
    lab = Lab(tmp_path, 4 * MIB)
    for number in (1, 2):
        lab.poke(number * MIB, noise(MIB // 2, number))
        lab.backup()
    found = [FoundRepository(lab.repository.path, "/dev/sdx1")]
    monkeypatch.setattr(finding, "find", lambda _task: found)
    return lab


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only disk that there is, larger than the one that was backed up."""
    image = tmp_path / "target.img"
    image.write_bytes(b"old" * 1000)
    os.truncate(image, 6 * MIB)
    with loop(image) as device:
        disk = Candidate(device, "Bigger Disk", 6 * MIB, "disk", (), True)
        part = Candidate(Path("/dev/sdx1"), "backups", 9 * MIB, "part", (), True)
        monkeypatch.setattr(devices, "candidates", lambda: [disk, part])
        yield image


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    """Let somebody at a terminal type this, and then leave."""
    monkeypatch.setattr("sys.stdin", Terminal("".join(f"{each}\n" for each in (*answers, "q"))))


@needs_root
def test_the_newest_point_is_restored_after_a_yes(
    vdbackup: Vdbackup, lab: Lab, target: Path, monkeypatch: pytest.MonkeyPatch
):
    answering(monkeypatch, "1", "", "1", "", "yes")
    said = vdbackup("rescue")
    assert said.status == 0
    assert "Bigger Disk" in said.out
    assert "will be lost" in said.out
    assert "holds point 2 of disk, checked on its way." in said.out
    assert target.read_bytes()[: 4 * MIB] == lab.image.read_bytes()


@needs_root
def test_another_point_is_restored_where_that_was_asked_for(
    vdbackup: Vdbackup, lab: Lab, target: Path, monkeypatch: pytest.MonkeyPatch
):
    answering(monkeypatch, "1", "1", "1", "", "yes")
    assert "holds point 1" in vdbackup("rescue").out
    (first, _) = lab.moments.values()
    assert target.read_bytes()[: 4 * MIB] == first.read_bytes()


@needs_root
@pytest.mark.parametrize(
    "answers",
    [["1", "", "1", "", "no"], ["1", "", "1", ""], ["1", "", "1"], ["7", "x", "q"], ["1"]],
)
def test_without_a_yes_nothing_is_written(
    answers: list[str], vdbackup: Vdbackup, lab: Lab, target: Path, monkeypatch: pytest.MonkeyPatch
):
    before = target.read_bytes()
    answering(monkeypatch, *answers)
    assert vdbackup("rescue").status == 0
    assert target.read_bytes() == before


@needs_root
def test_a_point_that_is_not_there_is_said_and_asked_for_again(
    vdbackup: Vdbackup, lab: Lab, target: Path, monkeypatch: pytest.MonkeyPatch
):
    answering(monkeypatch, "1", "9", "1", "2", "1", "", "yes")
    said = vdbackup("rescue")
    assert said.status == 0
    assert "9" in said.err
    assert "holds point 2" in said.out


@pytest.fixture
def partitioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The same with one point of a disk whose only partition is an ext4."""
    lab = Lab(tmp_path, 80 * MIB)
    run("sfdisk", "-q", lab.image, stdin="label: gpt\nstart=1M,size=78M,type=L\n")
    run("mkfs.ext4", "-q", "-E", f"offset={MIB}", lab.image, "78M")
    lab.backup()
    found = [FoundRepository(lab.repository.path, "/dev/sdx1")]
    monkeypatch.setattr(finding, "find", lambda _task: found)
    return lab


@needs_root
@pytest.mark.parametrize(
    ("size", "answers", "fitted"),
    [(60, ("yes",), 58), (120, ("yes", "yes"), 118), (120, ("", "yes"), 78)],
    ids=["smaller", "larger", "larger, the rest free"],
)
def test_a_disk_of_another_size_is_fitted_where_it_has_to_be_or_that_is_wanted(
    size: int, answers: tuple[str, ...], fitted: int, vdbackup: Vdbackup, partitioned: Lab,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    image = tmp_path / "target.img"
    with image.open("wb") as file:
        file.truncate(size * MIB)
    with loop(image) as device:
        disk = Candidate(device, "Another Disk", size * MIB, "disk", (), True)
        monkeypatch.setattr(devices, "candidates", lambda: [disk])
        answering(monkeypatch, "1", "", "1", *answers)
        said = vdbackup("rescue")
    assert "holds point 1 of disk" in said.out
    assert [each[1] for each in places(image)] == [fitted]
    assert "clean" in run("e2fsck", "-n", f"{image}?offset={MIB}")


@pytest.mark.parametrize(("letter", "what"), [("r", "restart"), ("p", "power_off")])
def test_the_computer_is_restarted_or_switched_off_when_asked_to(
    letter: str, what: str, vdbackup: Vdbackup, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    done = []
    for each in ("restart", "power_off"):
        monkeypatch.setattr(ending, each, lambda each=each: done.append(each))
    answering(monkeypatch, letter)
    assert vdbackup("rescue").status == 0
    assert done == [what]


def test_programs_are_told_what_is_found(vdbackup: Vdbackup, lab: Lab):
    (line,) = [json.loads(each) for each in vdbackup("rescue", "--json").out.splitlines()]
    assert line == {
        "event": "result",
        "repositories": [
            {
                "folder": str(lab.repository.path),
                "where": "/dev/sdx1",
                "sets": [{"name": "disk", "points": 2}],
            }
        ],
    }


def test_the_window_lists_what_is_found(vdbackup: Vdbackup, lab: Lab):
    assert vdbackup("rescue", "--for-window").status == 0
    settings = Settings.load(Locations.from_environment().settings_file)
    assert settings.repositories == (lab.repository.path,)


def test_who_finds_nothing_is_told_what_to_do(vdbackup: Vdbackup, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(finding, "find", lambda _task: [])
    answering(monkeypatch, "l")
    assert vdbackup("rescue").out.count("No backups were found") == 2


def test_a_plan_is_shown_in_a_sentence_and_as_json(vdbackup: Vdbackup, tmp_path: Path):
    image = tmp_path / "rescue.iso"
    said = vdbackup("make-rescue", str(image), "--text", "--dry-run", "--json")
    plan = json.loads(said.out)
    assert plan["event"] == "plan"
    assert plan["creates"] == [str(image)]
    assert "packages" in plan["summary"]
    assert "minutes" in vdbackup("make-rescue", str(image), "--dry-run").out
    assert not image.exists()
