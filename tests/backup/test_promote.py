"""Promotion: a session's changes become a point that is, byte for byte, what the guest saw."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.backup import sessions
from tests.backup.lab import Lab, sha256
from tests.noise import noise
from vdbackup.backup import promote
from vdbackup.backup.convert import plan as plan_conversion
from vdbackup.backup.convert import run as convert
from vdbackup.backup.repair import run as repair
from vdbackup.disks.disk import ParentRef
from vdbackup.errors import BackupError, Cancelled, DiskFormatError, PointInUse
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.recovery import restore
from vdbackup.repository import overlays
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import PointType, RecoveryPoint
from vdbackup.repository.policy import Policy

GUEST = (
    "write -q -P 0x51 300k 4k",  # in the middle of a block that the base holds
    "write -q -P 0x52 1M 130k",
    "write -q -z 640k 64k",  # zeros over what the base holds
    "write -q -z -u 128k 64k",
    f"write -q -P 0x53 {20 * 64}k 4k",  # the disk's last block, which is short
)


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    lab = Lab(tmp_path, disk_format=disk_format)
    lab.poke(0, noise(12 * BLOCK, 1))
    lab.backup()
    lab.poke(3 * BLOCK, noise(2 * BLOCK, 2))
    lab.backup()
    return lab


@pytest.fixture
def second(lab: Lab) -> RecoveryPoint:
    return lab.set.points[1]


@pytest.fixture
def session(lab: Lab, second: RecoveryPoint) -> promote.EndedSession:
    """What a guest did to the second point, whose overlay had been retargeted before."""
    retarget(lab, second)
    session = sessions.begin(lab, second, lab.folder / "session")
    sessions.writes(session, *GUEST)
    return session


def retarget(lab: Lab, point: RecoveryPoint, block: int = 6, seed: int = 3) -> None:
    overlay = lab.open(lab.overlay(point), writable=True)
    overlay.write(block * BLOCK, memoryview(noise(BLOCK, seed)))
    overlay.flush()
    overlay.close()


def layers(lab: Lab) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(lab.set_folder.glob(f"*.{lab.disk_format}"))}


@pytest.mark.each_format
def test_the_point_is_byte_for_byte_what_the_guest_saw(
    lab: Lab, second: RecoveryPoint, session: promote.EndedSession, tmp_path: Path
) -> None:
    before = layers(lab)
    point = sessions.promoted(lab, second, session)
    assert (point.sequence, point.type, point.parent) == (3, PointType.INCREMENTAL, second.id)
    assert point.promoted_from is not None
    assert (point.promoted_from.session, point.promoted_from.title) == (session.id, "laptop #1")
    plan = restore.plan(
        restore.RestoreRequest(
            lab.repository, "disk", point.id, tmp_path / "out.raw", disk_format="raw"
        )
    )
    restore.run(plan, Task())
    assert (tmp_path / "out.raw").read_bytes() == lab.moments[point.id].read_bytes()
    assert {name: layers(lab)[name] for name in before} == before
    lab.check_ours(point)


def test_an_empty_overlay_and_a_plain_session_are_read_right_by_everybody(
    lab: Lab, second: RecoveryPoint
) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    sessions.writes(session, *GUEST)
    sessions.promoted(lab, second, session)
    lab.check_all()


def test_only_what_changed_is_kept(lab: Lab, second: RecoveryPoint) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    sessions.writes(session, "write -q -P 0x51 300k 4k", "write -q -z 1200k 64k")
    point = sessions.promoted(lab, second, session)
    assert point.stored_bytes == BLOCK  # the zeros lie where zeros were


def test_a_promotion_reads_no_more_than_the_machine_wrote(lab: Lab, second: RecoveryPoint) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    sessions.writes(session, "write -q -P 0x51 300k 4k")
    seen: list[Progress] = []
    plan = promote.plan(lab.repository, "disk", second.id, session)
    promote.run(plan, Task(seen.append))
    assert seen[-1].total == BLOCK


def test_a_guest_that_wrote_nothing_gives_an_empty_point(lab: Lab, second: RecoveryPoint) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    point = sessions.promoted(lab, second, session)
    assert point.stored_bytes == 0
    lab.check_all()


def test_the_next_backup_goes_on_from_what_was_captured(lab: Lab, second: RecoveryPoint) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    sessions.writes(session, *GUEST)
    fork = sessions.promoted(lab, second, session)
    lab.poke(9 * BLOCK, noise(BLOCK, 4))
    latest = lab.backup()
    assert (latest.sequence, latest.parent) == (4, second.id)
    assert {point.id for point in lab.set.children(second.id)} == {fork.id, latest.id}
    assert latest.stored_bytes == BLOCK
    lab.check_all()


def test_a_promoted_point_counts_for_no_policy(lab: Lab, second: RecoveryPoint) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    sessions.writes(session, *GUEST)
    fork = sessions.promoted(lab, second, session)
    lab.backup(policy=Policy(1))
    points = lab.set.points
    assert [point.sequence for point in points] == [2, 3, 4]  # 2 is what both others go on from
    lab.delete(fork)
    lab.backup()
    assert [point.sequence for point in lab.set.points] == [5]
    lab.check_all()


def test_the_number_of_a_promoted_point_is_never_used_again(
    lab: Lab, second: RecoveryPoint
) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    lab.delete(sessions.promoted(lab, second, session))
    assert lab.backup().sequence == 4


def test_merging_and_converting_keep_where_it_came_from(lab: Lab, second: RecoveryPoint) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    sessions.writes(session, *GUEST)
    fork = sessions.promoted(lab, second, session)
    merged = lab.merge(fork)
    assert merged.promoted_from == fork.promoted_from
    lab.check_all()
    target = "qcow2" if lab.disk_format != "qcow2" else "vmdk"
    made = convert(plan_conversion(lab.repository, "disk", target), Task())
    assert made.points[-1].promoted_from == fork.promoted_from


def test_repair_keeps_the_point_and_loses_only_where_it_came_from(
    lab: Lab, second: RecoveryPoint
) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    sessions.writes(session, *GUEST)
    sessions.promoted(lab, second, session)
    (lab.set_folder / "0003-incremental.json").unlink()
    repair(lab.repository.path, Task())
    assert lab.set.points[2].promoted_from is None
    lab.check_all()


def test_a_session_that_was_promoted_already_gives_the_same_point(
    lab: Lab, second: RecoveryPoint, session: promote.EndedSession
) -> None:
    first = sessions.promoted(lab, second, session)
    assert sessions.promoted(lab, second, session) == first


def test_a_cancelled_promotion_leaves_everything_as_it_was(
    lab: Lab, second: RecoveryPoint, session: promote.EndedSession
) -> None:
    before, written = lab.files, sha256(session.disk)
    cancel = CancelToken()
    plan = promote.plan(lab.repository, "disk", second.id, session)
    with pytest.raises(Cancelled):
        promote.run(plan, Task(lambda _progress: cancel.cancel(), cancel))
    assert lab.files == before
    assert sha256(session.disk) == written


def test_an_overlay_that_was_retargeted_anew_is_noticed(
    lab: Lab, second: RecoveryPoint, session: promote.EndedSession
) -> None:
    retarget(lab, second, block=8, seed=5)
    with pytest.raises(BackupError, match="overlay of point 2 has changed"):
        promote.plan(lab.repository, "disk", second.id, session)


def test_a_merge_below_changes_nothing_for_a_session(
    lab: Lab, second: RecoveryPoint, session: promote.EndedSession
) -> None:
    wanted = sessions.seen(session.disk, lab.folder / "seen.raw").read_bytes()
    lab.merge(second)  # the full takes the second point's name, and its overlay stays
    point = promote.run(promote.plan(lab.repository, "disk", second.id, session), Task())
    with lab.set.open_chain(point) as chain:
        data = bytearray(chain.size)
        chain.readinto(0, memoryview(data))
    assert data == wanted


def test_a_machine_that_still_runs_is_refused(
    lab: Lab, second: RecoveryPoint, session: promote.EndedSession
) -> None:
    command = ["qemu-io", "-f", "qcow2", str(session.disk)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write(b"length\n")
        qemu.stdin.flush()
        qemu.stdout.readline()  # it has opened the disk
        with pytest.raises(PointInUse, match="still running"):
            promote.plan(lab.repository, "disk", second.id, session)
        qemu.stdin.close()


def test_a_session_disk_with_a_false_table_is_refused(lab: Lab, second: RecoveryPoint) -> None:
    session = sessions.begin(lab, second, lab.folder / "session")
    sessions.writes(session, *GUEST)
    with session.disk.open("r+b") as file:
        file.seek(40)  # where the L1 table lies
        table = int.from_bytes(file.read(8), "big")
        file.seek(table)
        file.write((1 << 50).to_bytes(8, "big"))
    with pytest.raises(DiskFormatError, match="L2 table"):
        promote.plan(lab.repository, "disk", second.id, session)


def test_of_a_disk_that_was_composed_around_a_volume_the_volume_is_promoted(
    lab: Lab, second: RecoveryPoint, tmp_path: Path
) -> None:
    start = 1 << 20
    raw = lab.moments[second.id].read_bytes()
    below, disk = tmp_path / "composed.raw", tmp_path / "composed.qcow2"
    below.write_bytes(b"t" * start + raw + b"t" * start)
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", below, disk]
    subprocess.run(create, check=True)
    session = promote.EndedSession(sessions.SESSION, "volume", disk, "", start)
    writes = [
        "write -q -P 1 0 4k",
        "write -q -P 2 1020k 8k",
        f"write -q -P 3 {start + lab.size} 4k",
    ]
    sessions.writes(session, *writes)  # the tables, both sides of the border, behind it
    point = promote.run(promote.plan(lab.repository, "disk", second.id, session), Task())
    lab.moments[point.id] = tmp_path / "wanted.raw"
    lab.moments[point.id].write_bytes(b"\2" * 4096 + raw[4096:])
    lab.check_all()
    with pytest.raises(BackupError, match="not as large"):
        promote.plan(lab.repository, "disk", second.id, replace(session, start=0))
    with pytest.raises(BackupError, match="not as large"):
        promote.plan(lab.repository, "disk", second.id, replace(session, start=5 << 20))


def test_a_relinked_overlay_is_the_same_overlay(lab: Lab, second: RecoveryPoint) -> None:
    path = lab.overlay(second)
    assert overlays.contents(path, lab.disk_format) == ""
    retarget(lab, second)
    before = overlays.contents(path, lab.disk_format)
    assert before
    with_parent = lab.open(path, writable=True)
    known = with_parent.info.parent
    assert known is not None
    with_parent.relink(ParentRef(known.disk_id, known.content_id, lab.file("0001-full")))
    with_parent.close()
    assert overlays.contents(path, lab.disk_format) == before
