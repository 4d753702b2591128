"""Ctrl-C, SIGTERM and a terminal that closes, in the midst of each command.

Real processes and real signals, to the whole group as a terminal sends them. Afterwards nothing
runs, nothing half written is left, and the exit status is 130; what was there before is there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backup.once import made_once
from tests.cli.conftest import Vdbackup
from tests.cli.interrupting import LIMIT, MOVED, WRITTEN, contents, gated, started
from tests.guests import boot_sector
from tests.oracles import qemu
from vdbackup.sources import demo_disk

CTRL_C = (signal.SIGINT,)
THREE_TIMES = (signal.SIGINT, signal.SIGINT, signal.SIGINT)
SIZE = 24 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk of several chunks for each thread."""
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def two_points(vdbackup: Vdbackup, image: Path, repository: Path) -> Path:
    """A repository whose second point is as large as the first."""

    def make() -> None:
        assert vdbackup("backup", image, "-r", repository, "--retarget", "off").status == 0
        image.write_bytes(os.urandom(SIZE))
        assert vdbackup("backup", image, "-r", repository).status == 0

    made_once("two large points", make, repository, image)
    return repository


@pytest.mark.parametrize(
    "signals",
    [CTRL_C, (signal.SIGHUP,), (signal.SIGTERM, signal.SIGINT)],
)
def test_a_first_backup_is_cancelled_and_leaves_no_point(
    vdbackup: Vdbackup, image: Path, repository: Path, signals: tuple[signal.Signals, ...]
):
    with gated(MOVED, ["backup", image, "-r", repository]) as backup:
        backup.wait_until_at_work()
        status, _, err = backup.interrupt(*signals)
    assert status == 130, err
    assert "cancelled" in err
    assert "Traceback" not in err
    assert [path for path in repository.rglob("*") if path.suffix == ".partial"] == []
    assert vdbackup("backup", image, "-r", repository).status == 0


@pytest.mark.parametrize(
    "command",
    [
        ("backup", "disk.img", "-r", "backups"),
        ("backup", "disk.img", "-r", "backups", "--type", "full"),
        ("restore", "1", "restored.img", "-r", "backups"),
        ("export", "2", "exported.vhd", "-r", "backups"),
        ("convert", "-r", "backups", "--set", "disk", "--format", "qcow2"),
        ("verify", "-r", "backups"),
        ("adopt", "backups/disk/0002-incremental.vmdk", "-r", "others"),
    ],
    ids=" ".join,
)
def test_what_is_interrupted_leaves_everything_as_it_was(
    two_points: Path,
    tmp_path: Path,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    image.write_bytes(os.urandom(SIZE))
    if command[0] == "adopt":
        two_points.rename(tmp_path / "elsewhere")
        command = (command[0], command[1].replace("backups", "elsewhere"), *command[2:])
    before = contents(tmp_path)
    with gated(MOVED, command) as work:
        work.wait_until_at_work()
        status, _, err = work.interrupt(*THREE_TIMES)
    assert status == 130, err
    assert "cancelled" in err
    after = contents(tmp_path)
    made_anew = {name for name in after if name.startswith("others/")}
    assert made_anew <= {"others/vdbackup.json", "others/.lock"}
    assert {name: data for name, data in after.items() if name not in made_anew} == before


def test_an_interrupted_repair_goes_on_when_it_is_called_again(
    vdbackup: Vdbackup, two_points: Path
):
    digests = sorted((two_points / "disk").glob("*.digests"))
    before = {path: path.read_bytes() for path in digests}
    for path in digests:
        path.unlink()
    with gated(MOVED, ["repair", "-r", two_points]) as repair:
        repair.wait_until_at_work()
        status, _, err = repair.interrupt(*THREE_TIMES)
    assert status == 130, err
    assert "Traceback" not in err
    assert vdbackup("repair", "-r", two_points).status == 0
    assert vdbackup("verify", "-r", two_points).status == 0
    assert list(two_points.rglob("*.partial")) == []
    assert sorted(before) == sorted((two_points / "disk").glob("*.digests"))


def test_an_interrupted_restore_over_a_disk_says_that_it_is_half_written(
    two_points: Path, tmp_path: Path
):
    target = tmp_path / "older.img"
    target.write_bytes(bytes(SIZE))
    command = ["restore", 2, target, "-r", two_points, "--delta", "--overwrite"]
    with gated(MOVED, command) as restore:
        restore.wait_until_at_work()
        status, _, err = restore.interrupt(*CTRL_C)
    assert status == 130, err
    assert f"{target} may be written over in part: restore to it again." in err


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with gated(MOVED, ["demo"]) as demo:
        demo.wait_until_at_work()
        status, _, err = demo.interrupt(*THREE_TIMES)
    assert status == 130, err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_merge_is_finished_by_the_next_command_which_can_be_interrupted_too(
    vdbackup: Vdbackup, two_points: Path, tmp_path: Path, image: Path
):
    journal = two_points / "disk" / "journal.json"
    with gated(MOVED, ["merge", 2, "-r", two_points]) as merge:
        merge.wait_until_at_work()
        while not journal.exists():
            merge.step()
        status, _, err = merge.interrupt(*CTRL_C)
    assert status == 130, err
    assert journal.exists()
    with gated(MOVED, ["list", "-r", two_points]) as listing:
        listing.wait_until_at_work()
        status, out, err = listing.interrupt(*THREE_TIMES)
    assert status == 130, err
    assert out == ""
    assert journal.exists()
    assert vdbackup("list", "-r", two_points).status == 0
    assert not journal.exists()
    assert vdbackup("restore", 2, tmp_path / "back.img", "-r", two_points).status == 0
    assert (tmp_path / "back.img").read_bytes() == image.read_bytes()


def test_a_merge_that_finishes_an_interrupted_one_instead_prints_its_result_line(
    vdbackup: Vdbackup, two_points: Path
):
    journal = two_points / "disk" / "journal.json"
    with gated(MOVED, ["merge", 2, "-r", two_points]) as merge:
        merge.wait_until_at_work()
        while not journal.exists():
            merge.step()
        merge.interrupt(*CTRL_C)
    merged = vdbackup("merge", 2, "-r", two_points, "--json")
    assert merged.status == 3
    last = json.loads(merged.out.splitlines()[-1])
    assert last["event"] == "result"
    assert "an interrupted merge was finished" in last["finished"][0]


def test_an_interrupted_extraction_leaves_no_half_of_a_file(
    vdbackup: Vdbackup, tmp_path: Path, repository: Path
):
    disk = tmp_path / "disk.img"
    demo_disk.create(disk, "hello")
    letter = b"dear all\n" * 300_000
    demo_disk.change(disk, "hello", {"LETTER.TXT": letter})
    assert vdbackup("backup", disk, "-r", repository).status == 0
    to = tmp_path / "out"
    with gated(WRITTEN, ["extract", "-r", repository, "latest", "/", to]) as extract:
        extract.wait_until_at_work()
        status, _, err = extract.interrupt(*THREE_TIMES)
    assert status == 130, err
    letters = [path.read_bytes() for path in to.rglob("LETTER.TXT")]
    assert letters in ([], [letter])


def sessions(private_home: Path) -> list[Path]:
    return [path for path in private_home.rglob("session.json") if path.is_file()]


@pytest.fixture
def endless(vdbackup: Vdbackup, tmp_path: Path, repository: Path) -> Path:
    """A repository with a machine that never shows a sign of life."""
    disk = boot_sector.make(tmp_path / "silent.img", "    jmp halt\n")
    assert vdbackup("backup", disk, "-r", repository).status in (0, 3)
    return repository


@pytest.mark.parametrize("signals", [CTRL_C, THREE_TIMES])
def test_an_interrupted_boot_test_leaves_no_machine_and_no_verdict(
    vdbackup: Vdbackup, endless: Path, private_home: Path, signals: tuple[signal.Signals, ...]
):
    command = ["boot-test", "latest", "-r", endless]
    with started(command, lambda event: "Booting" in str(event.get("phase"))) as test:
        for number in signals:
            os.killpg(test.pid, number)
        _, err = test.communicate(timeout=LIMIT)
        assert test.returncode == 130, err
    assert sessions(private_home) == []
    point = vdbackup("list", "-r", endless, "--json").json["sets"][0]["points"][0]
    assert point["boot_tested"] is None


@pytest.mark.parametrize("until", [(), ("--until", "never")])
def test_an_interrupted_boot_ends_its_machine_and_keeps_what_nobody_gave_up(
    vdbackup: Vdbackup, endless: Path, private_home: Path, until: tuple[str, ...]
):
    command = [sys.executable, "-m", "vdbackup", "boot", "1", "-r", str(endless), "--headless"]
    with subprocess.Popen(
        ["env", "--default-signal=INT", *command, "--hardware", "ide", *until],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as boot:
        assert boot.stdout is not None
        assert "IDE" in boot.stdout.readline()
        os.killpg(boot.pid, signal.SIGINT)
        os.killpg(boot.pid, signal.SIGINT)
        _, err = boot.communicate(timeout=LIMIT)
    assert boot.returncode == 130, err
    assert len(sessions(private_home)) == (0 if until else 1)
    assert ("is kept" in err) is not bool(until)


def test_an_interrupted_promotion_leaves_the_session_and_no_point(
    vdbackup: Vdbackup, tmp_path: Path, repository: Path, private_home: Path
):
    """What the machine wrote can be promoted afterwards, all of it."""
    disk = tmp_path / "disk.img"
    demo_disk.create(disk, "hello")
    with disk.open("r+b") as file:
        file.truncate(2 * SIZE)
    assert vdbackup("backup", disk, "-r", repository).status in (0, 3)
    watched = ("--headless", "--timeout", LIMIT, "--until", "hello", "--keep")
    assert vdbackup("boot", 1, "-r", repository, *watched).status == 0
    (session,) = (path.parent for path in sessions(private_home))
    qemu.io(session / "session.qcow2", f"write -P 90 {SIZE} {SIZE}", disk_format="qcow2")
    before = contents(repository), contents(session)
    with gated(MOVED, ["sessions", "promote", session.name]) as promote:
        promote.wait_until_at_work()
        status, _, err = promote.interrupt(*THREE_TIMES)
    assert status == 130, err
    assert "Traceback" not in err
    assert (contents(repository), contents(session)) == before
    promoted = vdbackup("sessions", "promote", session.name)
    assert promoted.status in (0, 3), promoted.err
    assert vdbackup("restore", 2, tmp_path / "back.img", "-r", repository).status == 0
    assert (tmp_path / "back.img").read_bytes()[SIZE:] == bytes([90]) * SIZE


@pytest.mark.parametrize("signals", [CTRL_C, THREE_TIMES])
def test_an_interrupted_retargeting_leaves_the_overlay_as_it_was(
    vdbackup: Vdbackup, tmp_path: Path, repository: Path, signals: tuple[signal.Signals, ...]
):
    disk = tmp_path / "disk.img"
    demo_disk.create(disk, "hello")
    assert vdbackup("backup", disk, "-r", repository, "--retarget", "off").status == 0
    before = contents(repository)
    place = "vdbackup.guest.disk:Disk:_add"
    with gated(place, ["retarget", "latest", "-r", repository]) as retarget:
        retarget.wait_until_at_work()
        status, _, err = retarget.interrupt(*signals)
    assert status == 130, err
    assert "Traceback" not in err
    assert contents(repository) == before
    assert vdbackup("retarget", "latest", "-r", repository).status in (0, 3)


def test_a_signal_before_anything_was_begun_leaves_no_traceback(
    vdbackup: Vdbackup, image: Path, repository: Path
):
    """While the command reads: here between two sets of a listing."""
    assert vdbackup("backup", image, "-r", repository).status == 0
    place = "vdbackup.repository.repository:Repository:survey"
    with gated(place, ["list", "-r", repository]) as listing:
        listing.wait_until_at_work()
        status, out, err = listing.interrupt(*THREE_TIMES)
    assert (status, out) == (130, "")
    assert err.startswith("vdbackup: ")
    assert "ancelled" in err
    assert "Traceback" not in err
