"""Claims: nothing that somebody reads is changed or taken away, and it is said who that is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.backup.lab import Lab, sha256
from tests.backup.once import once
from tests.noise import noise
from vdbackup.backup import delete, merge
from vdbackup.backup import repair as repairing
from vdbackup.disks import qemu_locks
from vdbackup.errors import PointInUse, PointNotFound
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.repository import claims
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.journal import JOURNAL_NAME
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.policy import Policy

READER = """
import hashlib, sys
from pathlib import Path
from vdbackup.repository import claims
from vdbackup.repository.repository import Repository
repository = Repository.open(Path(sys.argv[1]))
with claims.open_point(repository, "disk", sys.argv[2], "reading in a test") as chain:
    data = memoryview(bytearray(chain.size))
    chain.readinto(0, data[:4096])
    print("reading", flush=True)
    sys.stdin.readline()
    chain.readinto(4096, data[4096:])
    print(hashlib.sha256(data).hexdigest(), flush=True)
"""


def in_a_hurry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Four points; who is in the way gets no time to end."""
    monkeypatch.setattr(claims, "GIVE_WAY", 0.0)
    return four_points(Lab(tmp_path))


@once
def four_points(lab: Lab) -> None:
    """1 <- 2 <- 3 <- 4"""
    for number in range(4):
        lab.poke(number * BLOCK, noise(2 * BLOCK, number))
        lab.backup()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return in_a_hurry(tmp_path, monkeypatch)


class Reader:
    """Another process that has read the beginning of a point."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def read_on(self) -> str:
        """Let it read the rest; the SHA-256 of all that it has read."""
        out, _ = self.process.communicate("\n", timeout=200)
        return out.strip()


@contextmanager
def reader(lab: Lab, point: RecoveryPoint) -> Iterator[Reader]:
    command = [sys.executable, "-c", READER, str(lab.repository.path), point.id]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        try:
            yield Reader(process)
        finally:
            process.kill()


def read_here(lab: Lab, point: RecoveryPoint):  # type: ignore[no-untyped-def]
    return claims.reading(lab.repository, "disk", [point.id], "showing the files of a point")


# ------------------------------------------------------------------------- what is changed


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_merge_refuses_what_another_process_reads_and_names_it(lab: Lab, number: int) -> None:
    point = lab.set.points[number - 1]
    with reader(lab, point) as other:
        before = lab.files
        with pytest.raises(PointInUse) as refused:
            lab.merge(lab.set.points[1])
        assert f"(process {other.process.pid} of " in refused.value.title
        assert "is reading it" in refused.value.title
        assert refused.value.cleared is not None
        assert not refused.value.cleared()
        assert lab.files == before
        assert other.read_on() == sha256(lab.moments[point.id])
        assert refused.value.cleared()
    lab.merge(lab.set.points[1])
    lab.check_all()


def test_a_reader_that_is_killed_is_in_nobodys_way(lab: Lab) -> None:
    with reader(lab, lab.set.points[0]) as other:
        other.process.kill()
        other.process.wait()
        lab.merge(lab.set.points[1])
    lab.check_all()


def test_a_merge_waits_for_a_reader_that_ends_soon(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "GIVE_WAY", 60.0)
    with reader(lab, lab.set.points[0]) as other:

        class EndsIt(CancelToken):
            """Whoever waits looks at this: then the reader ends."""

            def wait(self, seconds: float) -> None:
                if other.process.poll() is None:
                    other.read_on()

        plan = merge.plan(lab.repository, "disk", lab.set.points[1].id)
        merge.run(plan, Task(cancel=EndsIt()))
        assert other.process.poll() == 0
    lab.check_all()


def test_a_reader_in_this_program_is_named_by_what_it_does(lab: Lab) -> None:
    with read_here(lab, lab.set.points[2]), pytest.raises(PointInUse) as refused:
        lab.merge(lab.set.points[2])
    assert refused.value.title == (
        "Point 2 is in use: this program is showing the files of a point."
    )


def test_what_is_read_elsewhere_in_the_set_is_in_nobodys_way(lab: Lab) -> None:
    other = lab.backup("full")
    with reader(lab, other) as reading:
        lab.merge(lab.set.points[1])
        assert reading.read_on() == sha256(lab.moments[other.id])
    lab.check_all()


def test_a_delete_refuses_what_is_read(lab: Lab) -> None:
    with reader(lab, lab.set.points[3]) as other:
        with pytest.raises(PointInUse, match=f"process {other.process.pid} of"):
            lab.delete(lab.set.points[3])
        assert other.read_on() == sha256(lab.moments[lab.set.points[3].id])


def test_what_another_program_has_open_is_neither_merged_nor_deleted(lab: Lab) -> None:
    """VirtualBox, for example, takes no lock that QEMU would know."""
    for point, change in ((lab.set.points[0], lab.merge), (lab.set.points[3], lab.delete)):
        with subprocess.Popen(
            ["sh", "-c", 'exec 3<"$1"; echo open; read _', "sh", lab.layer(point)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as other:  # fmt: skip
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            with pytest.raises(PointInUse, match=rf"sh \(process {other.pid} of .* has it open"):
                change(lab.set.points[lab.set.points.index(point) or 1])
            other.communicate("\n", timeout=200)
    lab.check_all()


_NBD = "addr.type=unix,addr.path={socket}"
QEMUS = {
    "reads": ["qemu-nbd", "--read-only", "--persistent", "--socket={socket}", "{layer}"],
    "writes": ["qemu-nbd", "--format=raw", "--persistent", "--socket={socket}", "{layer}"],
    "exports": [
        "qemu-storage-daemon",
        "--blockdev=driver=file,filename={layer},node-name=a",
        f"--nbd-server={_NBD}",
        "--export=type=nbd,id=e,node-name=a,writable=on",
    ],
}


@contextmanager
def qemu(way: str, layer: Path) -> Iterator[None]:
    """A QEMU that has a layer open, once its locks are there."""
    layer.chmod(0o644)
    with (
        tempfile.TemporaryDirectory() as folder,  # a socket's name has 107 bytes at most (unix(7))
        subprocess.Popen(
            [each.format(layer=layer, socket=f"{folder}/nbd") for each in QEMUS[way]],
            stdout=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            while not qemu_locks.is_open(layer):
                assert process.poll() is None
                threading.Event().wait(0.01)
            yield
        finally:
            process.kill()  # one that has only just begun was seen to hear no other signal


@pytest.mark.parametrize("way", QEMUS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_merge_refuses_what_a_qemu_has_open(lab: Lab, way: str, number: int) -> None:
    """Its locks lie on the layers, with the parents; ours on the folder: both are asked for."""
    refused = pytest.raises(PointInUse, match=r"Point [123] is in use: a virtual machine")
    with qemu(way, lab.layer(lab.set.points[number - 1])), refused:
        lab.merge(lab.set.points[1])
    lab.merge(lab.set.points[1])
    lab.check_all()


@pytest.mark.parametrize("way", ["reads", "writes"])
def test_no_qemu_is_kept_from_opening_what_we_read_and_the_next_merge_sees_both(
    lab: Lab, way: str
) -> None:
    """Layers are sealed (mode 0444): none but root opens one for writing, and only on purpose."""
    point = lab.set.points[0]
    assert lab.layer(point).stat().st_mode & 0o222 == 0
    with reader(lab, point) as other, qemu(way, lab.layer(point)):
        assert qemu_locks.is_open_for_writing(lab.layer(point)) is (way == "writes")
        assert other.read_on() == sha256(lab.moments[point.id])
        with pytest.raises(PointInUse, match="a virtual machine"):
            lab.merge(lab.set.points[1])


def test_a_backup_is_made_while_a_reader_keeps_the_policy_from_merging(lab: Lab) -> None:
    first = lab.set.points[0]
    with reader(lab, first) as other:
        result = lab.capture(policy=Policy(keep=2, retarget=False))
        assert [point.sequence for point in lab.set.points] == [1, 4, 5]
        assert result.warnings == ()
        assert "Point 1 stays for now: Point 1 is in use: python" in "".join(result.notes)
        assert other.read_on() == sha256(lab.moments[first.id])
    lab.capture()
    assert [point.sequence for point in lab.set.points] == [5, 6]
    lab.check_all()


def test_a_policy_says_of_the_first_points_only_why_they_stay(lab: Lab) -> None:
    for _ in range(3):
        lab.backup()
    with read_here(lab, lab.set.points[-1]):
        result = lab.capture(policy=Policy(keep=1, retarget=False))
    assert [note.partition(":")[0] for note in result.notes] == [
        "Point 1 stays for now",
        "Point 2 stays for now",
        "Point 3 stays for now",
        "4 more points stay for now.",
    ]


# ------------------------------------------------------------------------- late readers


def test_nobody_begins_to_read_what_a_merge_changes_from_its_beginning_to_its_end(lab: Lab) -> None:
    points = lab.set.points
    refused = set()

    def begin(progress: Progress) -> None:
        for point in points:
            try:
                with read_here(lab, point) as backup_set:
                    lab.check_ours(backup_set.point(point.id))
            except PointInUse as error:
                refused.add((progress.phase, point.sequence, error.title))

    merge.run(merge.plan(lab.repository, "disk", points[2].id), Task(begin))
    phases = ("Check child", "Merge", "Check")
    title = "disk is just being changed: this program is changing it."
    assert refused == {(phase, number, title) for phase in phases for number in (2, 3, 4)}
    with pytest.raises(PointNotFound), read_here(lab, points[1]) as backup_set:
        backup_set.point(points[1].id)
    lab.check_all()


def test_a_reader_sees_what_a_merge_has_made_since_its_caller_looked(lab: Lab) -> None:
    before = lab.set.points[3]
    lab.merge(lab.set.points[3])
    with read_here(lab, before) as backup_set:
        assert backup_set.point(before.id).disk == "0004-incremental.vmdk"
        assert [p.sequence for p in backup_set.chain(backup_set.point(before.id))] == [1, 2, 4]


def test_a_reader_waits_for_a_merge_that_ends_soon(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "GIVE_WAY", 60.0)
    point = lab.set.points[3]
    with claims.changing(lab.set, [point], CancelToken()):
        command = [sys.executable, "-c", READER, str(lab.repository.path), point.id]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        waiting = subprocess.Popen(command, text=True, **pipes)
    with waiting as process:
        out, _ = process.communicate("\n", timeout=200)
    assert out.split() == ["reading", sha256(lab.moments[point.id])]


# ------------------------------------------------------------------------- merges cut off


@pytest.fixture
def cut_off(lab: Lab) -> Lab:
    """Half of 3 has been copied into 2."""
    lab.merge_half(lab.set.points[2])
    assert (lab.set.folder / JOURNAL_NAME).exists()
    return lab


def test_a_point_that_a_merge_has_partly_written_over_is_read_by_nobody(cut_off: Lab) -> None:
    (parent,) = cut_off.set.hidden
    with pytest.raises(PointInUse, match="Point 2 is not to be had"), read_here(cut_off, parent):
        pass


def test_a_merge_that_was_cut_off_is_not_finished_under_a_reader(cut_off: Lab) -> None:
    lab = cut_off
    child = lab.set.point(lab.set.journal.child.id)  # type: ignore[union-attr]
    with reader(lab, child) as other:
        before = lab.files
        (error,) = merge.recover(lab.repository, Task()).undone
        assert "could not be finished: Point 2 is in use: python" in error.title
        with pytest.raises(PointInUse):
            delete.run(delete.plan(lab.repository, "disk", lab.set.points[-1].id), Task())
        assert lab.files == before
        assert other.read_on() == sha256(lab.moments[child.id])
    assert merge.recover(lab.repository, Task()).done == (
        "disk: an interrupted merge was finished: point 3.",
    )
    lab.check_all()


def test_the_nights_backup_is_made_though_a_merge_cannot_be_finished(cut_off: Lab) -> None:
    lab = cut_off
    child = lab.set.point(lab.set.journal.child.id)  # type: ignore[union-attr]
    lab.poke(9 * BLOCK, noise(BLOCK, 99))
    with reader(lab, child) as other:
        result = lab.capture(policy=Policy(keep=1, retarget=False))
        assert "A merge that was interrupted is finished later: Point 2 is in use: python" in (
            "".join(result.warnings)
        )
        assert "A repair makes a point of it" not in "".join(result.warnings)  # the merge's own
        assert result.point.parent == lab.set.points[-2].id
        for point in lab.set.points:
            lab.check_ours(point)
        assert other.read_on() == sha256(lab.moments[child.id])
    lab.capture()
    assert [point.sequence for point in lab.set.points] == [6]
    lab.check_all()


def test_a_repair_finishes_nothing_under_a_reader(cut_off: Lab) -> None:
    lab = cut_off
    with read_here(lab, lab.set.points[-1]):
        before = lab.files
        with pytest.raises(PointInUse):
            repairing.run(lab.repository.path, Task())
        assert lab.files == before
