"""Over what is there: what differs alone is written, what was cut off goes on, all is read back."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.sources.loops import attached, loop, own_name
from vdbackup.disks.host_file import HostFile
from vdbackup.errors import Cancelled, Damaged, TargetUnsound, UnfitTarget
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.recovery import restore, restore_journal
from vdbackup.recovery.in_place import Figures
from vdbackup.repository.digests import BLOCK

MIB = 1 << 20


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Two points of a disk of 80 MiB, of which 40 are data: five regions of a journal."""
    lab = Lab(tmp_path, 80 * MIB)
    for at in range(0, 80, 8):
        lab.poke(at * MIB, noise(4 * MIB, at))
    lab.backup()
    lab.poke(3 * BLOCK, noise(BLOCK, 1))
    lab.poke(65 * MIB, 2 * BLOCK)  # zeros
    lab.backup()
    return lab


@pytest.fixture
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it is noted how far a restore has come: after every chunk."""
    monkeypatch.setattr(restore_journal, "PAUSE", 0.0)
    return tmp_path / "restores"


@pytest.fixture
def device(lab: Lab, as_root: None) -> Iterator[Path]:
    """As large as the disk, and full of something else."""
    image = lab.folder / "device.img"
    image.write_bytes(b"\x55" * lab.size)
    with loop(image) as device:
        yield device


def planned(lab: Lab, target: Path, number: int = 2, **wanted: object) -> restore.RestorePlan:
    request = restore.RestoreRequest(
        lab.repository, "disk", lab.set.points[number - 1].id, target, overwrite=True
    )
    return restore.plan(replace(request, **wanted))  # type: ignore[arg-type]


def restored(lab: Lab, target: Path, number: int = 2, **wanted: object) -> Figures:
    done = restore.run(planned(lab, target, number, **wanted), Task())
    assert done.warnings == ()
    return done.figures


def interrupted(lab: Lab, target: Path, after: int, number: int = 2, **wanted: object) -> None:
    """One that is cancelled when so many bytes have been written or compared."""
    cancel = CancelToken()

    def report(progress: Progress) -> None:
        if progress.done >= after:
            cancel.cancel()

    with pytest.raises(Cancelled):
        restore.run(planned(lab, target, number, **wanted), Task(report, cancel))


def holds(lab: Lab, target: Path, number: int = 2) -> bool:
    """Read past the cache of the device, by somebody else."""
    wanted = lab.moments[lab.set.points[number - 1].id]
    command = ["cmp", "-n", str(lab.size), wanted, target]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


# ---------------------------------------------------------------------------------------- deltas


def test_of_a_device_with_an_older_state_what_differs_alone_is_written(
    lab: Lab, device: Path
) -> None:
    assert restored(lab, device, 1).written == lab.size
    figures = restored(lab, device, 2, delta=True)
    assert figures == Figures(lab.size, 3 * BLOCK, 3 * BLOCK, 0)
    assert holds(lab, device)
    assert restored(lab, device, 2, delta=True) == Figures(lab.size, 0, 0, 0)
    assert restored(lab, device, 1, delta=True).written == 3 * BLOCK
    assert holds(lab, device, 1)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_device_holds_it_holds_the_point_afterwards(
    lab: Lab, device: Path, seed: int
) -> None:
    restored(lab, device)
    dice = random.Random(seed)
    blocks = {dice.randrange(lab.size // BLOCK) for _ in range(20)}
    with device.open("r+b") as file:
        for block in blocks:
            file.seek(block * BLOCK + dice.randrange(BLOCK - 100))
            file.write(dice.randbytes(100))
    assert restored(lab, device, delta=True).written == len(blocks) * BLOCK
    assert holds(lab, device)


def test_a_file_keeps_its_holes_and_gets_new_ones(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "out.img"
    restored(lab, target, 1)
    stored = target.stat().st_blocks
    with target.open("r+b") as file:
        file.seek(6 * MIB)
        file.write(b"what was a hole")
    inode = target.stat().st_ino
    figures = restored(lab, target, 2, delta=True)
    assert figures.written == 4 * BLOCK
    assert figures.compared <= 41 * MIB  # and not the holes
    assert target.read_bytes() == lab.image.read_bytes()
    assert target.stat().st_blocks <= stored - 2 * BLOCK // 512
    assert target.stat().st_ino == inode


@pytest.mark.parametrize("size", [5 * MIB + 17, 90 * MIB])
def test_a_file_of_another_size_becomes_as_long_as_the_disk(
    lab: Lab, tmp_path: Path, size: int
) -> None:
    target = tmp_path / "out.img"
    target.write_bytes(noise(size, 3))
    restored(lab, target, delta=True)
    assert target.read_bytes() == lab.image.read_bytes()


def test_only_raw_disks_that_nobody_has_open_are_compared(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(UnfitTarget, match=r"There is no .*out\.img to compare"):
        planned(lab, tmp_path / "out.img", delta=True)
    disk = tmp_path / "other.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "80M"], check=True)
    with pytest.raises(UnfitTarget, match="is no raw disk"):
        planned(lab, disk, delta=True)
    target = tmp_path / "out.img"
    restored(lab, target, 1)
    plan = planned(lab, target, delta=True)
    with target.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as reader:
        try:
            with pytest.raises(UnfitTarget, match=r"is open elsewhere: sleep \(process"):
                restore.run(plan, Task())
        finally:
            reader.kill()
    assert holds(lab, target, 1)


def test_a_damaged_point_writes_nothing_that_is_not_as_captured(lab: Lab, device: Path) -> None:
    restored(lab, device, 1)
    layer = lab.layer(lab.set.points[1])
    layer.chmod(0o600)
    data = bytearray(layer.read_bytes())
    at = data.index(noise(BLOCK, 1))
    data[at] ^= 1
    layer.write_bytes(data)
    with pytest.raises(Damaged, match=r"not as captured"):
        restored(lab, device, delta=True)
    plan = planned(lab, device, delta=True, ignore_damage=True)
    (warning,) = restore.run(plan, Task()).warnings
    assert "64 KiB at byte 196,608 of the disk are damaged" in warning


def test_what_the_target_does_not_keep_is_noticed(
    lab: Lab, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, write = 8 * MIB, HostFile.write

    def loses(self: HostFile, offset: int, view: memoryview) -> None:
        end = offset + len(view)
        if self.path == device and offset <= lost < end:
            view = memoryview(bytearray(view))
            view[lost - offset] ^= 1
        write(self, offset, view)

    monkeypatch.setattr(HostFile, "write", loses)
    with pytest.raises(TargetUnsound, match=r"at byte 8,388,608 of the disk"):
        restored(lab, device)


# ---------------------------------------------------------------------------------- interruptions


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_was_cut_off_at_any_moment_goes_on_where_it_was(
    lab: Lab,
    device: Path,
    journals: Path,
    seed: int,
    delta: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(restore_journal, "PAUSE", dice.choice([0.0, 60.0]))  # by time, or at all
    for _ in range(3):
        interrupted(lab, device, dice.randrange(lab.size), delta=delta, journals=journals)
    plan = planned(lab, device, delta=delta, journals=journals)
    done = restore.run(plan, Task()).figures
    assert done.resumed == plan.resumed
    if not delta:
        assert done.written == lab.size - done.resumed
    assert done.verified + done.compared >= lab.size
    assert holds(lab, device)
    assert list(journals.iterdir()) == []


def test_the_plan_says_how_much_is_there_already(lab: Lab, device: Path, journals: Path) -> None:
    assert "interrupted" not in planned(lab, device, journals=journals).summary
    interrupted(lab, device, 64 * MIB, journals=journals)
    plan = planned(lab, device, journals=journals)
    there = plan.resumed
    assert there >= 32 * MIB
    assert f"gone on with: {there >> 20} MiB are there already." in plan.summary
    assert plan.bytes_to_copy == lab.size - there


def test_what_was_lost_of_what_was_noted_is_written_again(
    lab: Lab, device: Path, journals: Path
) -> None:
    interrupted(lab, device, 64 * MIB, journals=journals)
    offset, _ = planned(lab, device, journals=journals).pieces[0].interrupted.record.done[0]
    with device.open("r+b") as file:
        file.seek(offset + 5 * BLOCK)
        file.write(b"another program's")
    restored(lab, device, journals=journals)
    assert holds(lab, device)


def test_of_another_point_it_begins_anew_and_says_so(
    lab: Lab, device: Path, journals: Path
) -> None:
    interrupted(lab, device, 64 * MIB, 1, journals=journals)
    plan = planned(lab, device, 2, journals=journals)
    assert plan.resumed == 0
    assert plan.summary.endswith("this one begins anew: it was of another recovery point.")
    restore.run(plan, Task())
    assert holds(lab, device)


def test_another_medium_in_the_drive_begins_anew_and_says_so(
    lab: Lab, journals: Path, as_root: None
) -> None:
    for name in ("one", "two"):
        (lab.folder / name).write_bytes(bytes(lab.size))
    with own_name() as drive:
        with attached(drive, lab.folder / "one"):
            interrupted(lab, drive, 64 * MIB, journals=journals)
        with attached(drive, lab.folder / "two"):
            plan = planned(lab, drive, journals=journals)
            assert plan.summary.endswith("nothing says that it is still the same disk.")
            assert restore.run(plan, Task()).figures.written == lab.size
            assert holds(lab, drive)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"target": 1}', "null", '{"done": [[0, 9999999999999]]}']
)
def test_a_journal_that_makes_no_sense_begins_anew(
    lab: Lab, device: Path, journals: Path, text: str
) -> None:
    interrupted(lab, device, 64 * MIB, journals=journals)
    (journal,) = journals.iterdir()
    journal.write_text(text)
    plan = planned(lab, device, journals=journals)
    assert plan.summary.endswith("begins anew: what was noted of it is damaged.")
    restore.run(plan, Task())
    assert holds(lab, device)


def test_of_what_is_restored_damaged_nothing_is_noted(
    lab: Lab, device: Path, journals: Path
) -> None:
    interrupted(lab, device, 64 * MIB, journals=journals)
    interrupted(lab, device, 64 * MIB, journals=journals, ignore_damage=True)
    assert planned(lab, device, journals=journals).resumed == 0


def test_where_nothing_can_be_noted_it_is_restored_all_the_same(
    lab: Lab, device: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    restored(lab, device, journals=tmp_path / "file" / "restores")
    assert holds(lab, device)


def test_a_delta_to_a_file_goes_on_too(lab: Lab, tmp_path: Path, journals: Path) -> None:
    target = tmp_path / "out.img"
    target.write_bytes(noise(lab.size, 9))
    interrupted(lab, target, 40 * MIB, delta=True, journals=journals)
    restored(lab, target, delta=True, journals=journals)
    assert target.read_bytes() == lab.image.read_bytes()
    assert os.listdir(journals) == []


KILLED = """
import os, signal, sys
from vdbackup import cli
from vdbackup.recovery import restore_journal
restore_journal.PAUSE = 0.0
note = restore_journal.Journal.note
def killed(self):
    note(self)
    if self.record.size > 16 << 20:
        os.kill(os.getpid(), signal.SIGKILL)
restore_journal.Journal.note = killed
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_process_that_is_killed_goes_on_where_it_was(
    lab: Lab, device: Path, tmp_path: Path
) -> None:
    """The real program; what it had in its hands is lost with it."""
    environment = {**os.environ, "VDBACKUP_DATA_DIR": str(tmp_path / "data")}
    where = ["restore", "latest", device, "-r", lab.repository.path, "--overwrite"]
    command = [sys.executable, "-c", KILLED, *map(str, where)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True)
    assert done.returncode == -9
    figures = restored(lab, device, journals=tmp_path / "data" / "restores")
    assert figures.resumed >= 32 * MIB
    assert holds(lab, device)


def test_regions_are_told_by_whole_blocks(lab: Lab, tmp_path: Path) -> None:
    """Also of a stretch that begins and ends in the midst of one."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    region = restore_journal.REGION
    stretch = restore_journal.Stretch(region // 2 + 5, 2 * region + BLOCK)
    record = restore_journal.Record.new(restore_journal.Target(str(path)), "id", stretch)
    file = HostFile.open(path, writable=True)
    try:
        with restore_journal.kept(record, tmp_path / "restores", file) as journal:
            for at in range(region // 2, 2 * region, BLOCK):
                journal.right(np.array([[at, BLOCK]], np.int64))
            journal.note()
            assert journal.record.done == ((region // 2, 3 * region // 2),)
    finally:
        file.close()
