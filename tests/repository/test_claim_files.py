"""Claim files: what is read on one computer is not changed by another, where no lock tells it.

The other computers are processes with another boot, machine and name, on mounts whose locks are
their own (`computers.py`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backup.lab import Lab, sha256
from tests.backup.merge_cut_off import instead_of, run_of
from tests.repository import computers
from tests.repository.test_claims import READER, in_a_hurry
from vdbackup.backup import delete, merge
from vdbackup.backup.merge_steps import Merging
from vdbackup.errors import PointInUse
from vdbackup.jobs import CancelToken, Task
from vdbackup.repository import claim_files, claims, lock
from vdbackup.repository.claim_files import Claim, Kind
from vdbackup.repository.lease import STALE
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository

CHANGER = """
import sys
from pathlib import Path
from vdbackup.jobs import CancelToken
from vdbackup.repository import claims
from vdbackup.repository.repository import Repository
repository = Repository.open(Path(sys.argv[1]))
with repository.lock("merging"):
    backup_set = repository.set("disk")
    with claims.changing(backup_set, backup_set.points[1:3], CancelToken()):
        print("changing", flush=True)
        sys.stdin.readline()
"""

CLAIMER = """
import sys
from pathlib import Path
from vdbackup.repository import claims
from vdbackup.repository.repository import Repository
repository = Repository.open(Path(sys.argv[1]))
with claims.reading(repository, "disk", [sys.argv[2]], "reading in a test"):
    print("reading", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def lab(as_root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return in_a_hurry(tmp_path, monkeypatch)


@pytest.fixture
def there(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """The repository as another computer sees it."""
    with computers.mounted(lab.repository.path, tmp_path / "there") as where:
        yield where


def claim_files_in(lab: Lab) -> list[Path]:
    return sorted(path for kind in Kind for path in lab.set_folder.glob(f"{kind}-*"))


def let_it_be_old(path: Path) -> None:
    then = time.time() - STALE - 1
    os.utime(path, (then, then))


def leave(lab: Lab, content: bytes) -> Path:
    path = lab.set_folder / f"reading-{uuid.uuid4()}.json"
    path.write_bytes(content)
    return path


# ------------------------------------------------------------------------- two computers


def test_a_merge_refuses_what_another_computer_reads_and_names_it(lab: Lab, there: Path) -> None:
    point = lab.set.points[2]
    with computers.running(READER, there, point.id, host="nas") as other:
        with pytest.raises(PointInUse) as refused:
            lab.merge(lab.set.points[1])
        assert refused.value.title.startswith("Point 1 is in use: process ")
        assert " on nas is reading in a test since " in refused.value.title
        assert refused.value.title.endswith(", with points 1 to 3.")
        assert refused.value.cleared is not None
        assert not refused.value.cleared()
        out, _ = other.communicate("\n", timeout=200)
        assert out.strip() == sha256(lab.moments[point.id])
        assert refused.value.cleared()
    assert claim_files_in(lab) == []
    lab.merge(lab.set.points[1])
    lab.check_all()


def test_a_delete_and_a_policy_leave_what_another_computer_reads(lab: Lab, there: Path) -> None:
    last = lab.set.points[3]
    with computers.running(READER, there, last.id, host="nas") as other:
        with pytest.raises(PointInUse, match="on nas is reading"):
            lab.delete(last)
        result = lab.capture(policy=Policy(keep=2, retarget=False))
        assert "on nas is reading" in "".join(result.notes)
        out, _ = other.communicate("\n", timeout=200)
        assert out.strip() == sha256(lab.moments[last.id])
    lab.check_all()


def test_a_plan_says_who_reads_here_and_on_another_computer(lab: Lab, there: Path) -> None:
    point = lab.set.points[3]
    plans = (
        lambda: merge.plan(lab.repository, "disk", point.id),
        lambda: delete.plan(lab.repository, "disk", point.id),
        lambda: delete.plan(lab.repository, "disk", lab.set.points[2].id),
    )
    assert [plan().hindrance for plan in plans] == ["", "", ""]
    with computers.running(READER, there, point.id, host="nas"):
        assert all("on nas is reading in a test" in plan().hindrance for plan in plans)
    for path in claim_files_in(lab):
        path.unlink()
    with claims.reading(lab.repository, "disk", [point.id], "reading in a test"):
        assert all("this program is reading in a test" in plan().hindrance for plan in plans)
    assert [plan().hindrance for plan in plans] == ["", "", ""]


def test_a_merge_goes_on_where_another_computer_reads_other_points(lab: Lab, there: Path) -> None:
    with computers.running(READER, there, lab.set.points[0].id, host="nas") as other:
        lab.merge(lab.set.points[2])
        assert other.communicate("\n", timeout=200)[0].strip() == sha256(
            lab.moments[lab.set.points[0].id]
        )
    lab.check_all()


def test_a_killed_readers_file_counts_until_it_is_stale_and_then_goes(
    lab: Lab, there: Path
) -> None:
    with computers.running(READER, there, lab.set.points[3].id, host="nas") as other:
        other.kill()
        other.wait()
        (left,) = claim_files_in(lab)
        with pytest.raises(PointInUse, match="on nas is reading"):
            lab.merge(lab.set.points[1])
        let_it_be_old(left)
        merge.plan(lab.repository, "disk", lab.set.points[1].id)
        assert left.exists(), "a plan deletes nothing"
        lab.merge(lab.set.points[1])
    assert claim_files_in(lab) == []


def test_a_killed_reader_of_this_computer_is_in_nobodys_way(lab: Lab, there: Path) -> None:
    with computers.running(READER, there, lab.set.points[3].id) as other:
        with pytest.raises(PointInUse, match=f"process {other.pid} on "):
            lab.merge(lab.set.points[1])  # though it came by another mount
        other.kill()
        other.wait()
        lab.merge(lab.set.points[1])
    assert claim_files_in(lab) == []


def test_nobody_begins_to_read_what_another_computer_changes(lab: Lab, there: Path) -> None:
    points = lab.set.points
    with computers.running(CHANGER, there, host="nas") as other:
        for point, refused in zip(points, (False, True, True, True), strict=True):
            if not refused:
                with claims.open_point(lab.repository, "disk", point.id, "reading") as chain:
                    assert chain.size == point.virtual_size
                continue
            with (
                pytest.raises(PointInUse, match="on nas is changing it since") as error,
                claims.reading(lab.repository, "disk", [point.id], "reading"),
            ):
                pass
            assert error.value.cleared is not None
            assert not error.value.cleared()
        other.communicate("\n", timeout=200)
        assert error.value.cleared()
    with claims.open_point(lab.repository, "disk", points[3].id, "reading"):
        pass
    assert claim_files_in(lab) == []


@pytest.mark.parametrize("kind", Kind)
def test_of_a_reader_and_a_merge_that_begin_at_once_one_sees_the_other(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """Each has made its own file when it looks for the other's."""
    seen = []

    def look(folder: Path, wanted: Kind, _numbers: object) -> None:
        assert wanted is not kind
        seen.extend(path.name.partition("-")[0] for path in claim_files_in(lab))

    monkeypatch.setattr(claims, "claimed", look)
    if kind is Kind.READING:
        with claims.reading(lab.repository, "disk", [lab.set.points[2].id], "reading"):
            pass
    else:
        with claims.changing(lab.set, lab.set.points[2:], CancelToken()):
            pass
    assert seen == [kind]


# ------------------------------------------------------------------------- one file


def test_a_process_keeps_one_file_in_a_set_however_much_it_reads(lab: Lab) -> None:
    first, second = lab.set.points[1], lab.set.points[3]
    with claims.reading(lab.repository, "disk", [first.id], "one"):
        with claims.reading(lab.repository, "disk", [second.id], "two"):
            assert len(claim_files_in(lab)) == 1
            assert claim_files.claimed(lab.set_folder, Kind.READING, [4]) is not None
        assert len(claim_files_in(lab)) == 1
        assert claim_files.claimed(lab.set_folder, Kind.READING, [4]) is None
        assert claim_files.claimed(lab.set_folder, Kind.READING, [2]) is not None
    assert claim_files_in(lab) == []


def test_a_claim_file_stays_small_in_a_set_with_many_gaps(lab: Lab) -> None:
    numbers = range(1, 40_000, 2)
    with claim_files.announced(lab.set_folder, Kind.READING, numbers, "reading"):
        (path,) = claim_files_in(lab)
        assert path.stat().st_size < 32_768
        for number in (1, 19_999, 39_999):
            assert claim_files.claimed(lab.set_folder, Kind.READING, [number]) is not None


def test_a_claim_file_is_renewed_while_somebody_reads(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    with claim_files.announced(lab.set_folder, Kind.READING, [1], "reading") as said:
        (path,) = claim_files_in(lab)
        let_it_be_old(path)
        until = time.monotonic() + 20
        pause = threading.Event()
        while time.time() - path.stat().st_mtime > STALE and time.monotonic() < until:
            pause.wait(0.01)
        assert time.time() - path.stat().st_mtime < STALE
        assert not said.was_unseen()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"claims": []}', b'{"claims": [7]}', b"\xff" * 99]
)
def test_a_claim_file_that_makes_no_sense_stops_nobody_and_goes_when_it_is_stale(
    lab: Lab, content: bytes
) -> None:
    """A power cut leaves such; and who is just making one has not looked yet for whom it sees."""
    path = leave(lab, content)
    lab.merge(lab.set.points[1])
    assert path.exists()
    let_it_be_old(path)
    lab.merge(lab.set.points[1])
    assert claim_files_in(lab) == []


def test_a_claim_file_that_may_not_be_read_counts_while_it_is_fresh(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's, for instance, made with a umask that lets nobody else read it."""

    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = leave(lab, b"")
    with monkeypatch.context() as patch:
        patch.setattr(claim_files, "open_own", refused)
        assert claim_files.claimed(lab.set_folder, Kind.READING, [2]) is not None
        let_it_be_old(path)
        assert claim_files.claimed(lab.set_folder, Kind.READING, [2]) is None
        lab.merge(lab.set.points[1])
    assert claim_files_in(lab) == []


def test_a_claim_is_seen_whose_process_makes_another_file_at_that_moment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = {**vars(Claim.of_this_process([3], "reading").process), "host": "nas", "boot": "x"}
    says = json.dumps({"claims": [{"process": process, "points": [[1, 3]]}]}).encode()
    first = leave(lab, says)
    look = claim_files.open_own

    def too_late(path: Path, *arguments: int) -> int:
        if path == first and first.exists():
            leave(lab, says)
            first.unlink()
        return look(path, *arguments)

    monkeypatch.setattr(claim_files, "open_own", too_late)
    assert claim_files.claimed(lab.set_folder, Kind.READING, [2]) is not None


def test_a_link_or_a_pipe_of_such_a_name_stops_nobody_and_is_not_followed(lab: Lab) -> None:
    matters = lab.repository.path.parent / "matters"
    matters.write_text("mine")
    os.symlink(matters, lab.set_folder / f"reading-{uuid.uuid4()}.json")
    os.mkfifo(lab.set_folder / f"changing-{uuid.uuid4()}.json")
    lab.merge(lab.set.points[1])
    assert matters.read_text() == "mine"


@pytest.mark.parametrize(
    "points",
    ["no", [[1]], [["1", 2]], [[1, 2, 3]], [[True, 2]], None, [[n, n] for n in range(501)]],
    ids=lambda points: str(points)[:20],
)
def test_a_claim_that_lies_about_its_types_is_none(points: object) -> None:
    process = vars(Claim.of_this_process([1], "reading").process)
    assert Claim.parse({"process": process, "points": [[1, 2]]}) is not None
    for said in ({"process": process, "points": points}, {"process": "7", "points": [[1, 2]]}):
        with pytest.raises((TypeError, ValueError)):
            Claim.parse(said)


# ------------------------------------------------------------------------- where none can be made


def test_a_user_who_may_only_read_leaves_no_claim_file(lab: Lab, tmp_path: Path) -> None:
    with computers.mounted(lab.repository.path, tmp_path / "mount") as mount:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(mount)], check=True)
        point = lab.set.points[3]
        with claims.open_point(Repository.open(mount), "disk", point.id, "reading") as chain:
            assert claim_files_in(lab) == []
            data = bytearray(chain.size)
            chain.readinto(0, memoryview(data))
        assert hashlib.sha256(data).hexdigest() == sha256(lab.moments[point.id])


def test_what_a_crash_left_on_storage_that_is_read_only_keeps_nobody_from_reading_for_ever(
    lab: Lab, tmp_path: Path
) -> None:
    """Its name is durable as soon as the merge syncs the folder; nothing says so of its content."""
    process = {**vars(Claim.of_this_process([3], "changing it").process), "boot": "", "machine": ""}
    says = json.dumps({"claims": [{"process": process, "points": [[1, 4]]}]}).encode()
    left, another = (lab.set_folder / f"changing-{uuid.uuid4()}.json" for _ in range(2))
    left.write_bytes(says)
    let_it_be_old(left)
    point = lab.set.points[3].id
    with computers.mounted(lab.repository.path, tmp_path / "mount") as mount:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(mount)], check=True)
        with claims.reading(Repository.open(mount), "disk", [point], "reading"):
            another.write_bytes(left.read_bytes())
        with (
            pytest.raises(PointInUse, match="is just being changed"),
            claims.reading(Repository.open(mount), "disk", [point], "reading"),
        ):
            pass


def test_a_user_who_may_only_read_is_told_that_another_computer_has_merged(
    lab: Lab, tmp_path: Path
) -> None:
    with computers.mounted(lab.repository.path, tmp_path / "mount") as mount:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(mount)], check=True)
        repository = Repository.open(mount)
        with (
            pytest.raises(PointInUse, match="changed by another computer while it was read here"),
            claims.reading(repository, "disk", [lab.set.points[3].id], "reading"),
        ):
            lab.merge(lab.set.points[1])


def test_a_reader_whose_computer_slept_is_told_that_another_has_merged(
    lab: Lab, there: Path
) -> None:
    def sleep() -> None:
        with claims.reading(Repository.open(there), "disk", [lab.set.points[3].id], "reading"):
            for path in claim_files_in(lab):
                path.unlink()  # by whoever found it stale
            lab.merge(lab.set.points[1])

    with pytest.raises(PointInUse, match="changed by another computer while it was read here"):
        sleep()


def test_a_reader_whose_computer_slept_is_told_nothing_where_nothing_changed(lab: Lab) -> None:
    point = lab.set.points[3]
    with claims.reading(lab.repository, "disk", [point.id], "reading") as backup_set:
        for path in claim_files_in(lab):
            path.unlink()
        assert backup_set.point(point.id) == point
    assert claim_files_in(lab) == []


def test_a_full_disk_keeps_nobody_from_reading_or_deleting(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    point = lab.set.points[3]
    with monkeypatch.context() as patch:
        patch.setattr(claim_files, "open_own", full)
        with claims.open_point(lab.repository, "disk", point.id, "reading") as chain:
            assert chain.size == point.virtual_size
        lab.delete(point)
    assert claim_files_in(lab) == []
    merge.run(merge.plan(lab.repository, "disk", lab.set.points[1].id), Task())
    lab.check_all()


# ------------------------------------------------------------------- a changer that slept


@pytest.mark.parametrize("step", ["copy", "publish", "take over", "relink", "delete"])
def test_a_merge_that_slept_takes_nothing_from_who_began_to_read_meanwhile(
    lab: Lab, there: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its claim was stale by then, so the other computer could not see it."""
    reader, taken = ExitStack(), run_of(step)

    def sleep_first(merging: Merging) -> None:
        if not reader_began:
            for path in claim_files_in(lab):
                path.unlink()  # by whoever found it stale
            began = computers.running(CLAIMER, there, lab.set.points[-1].id, host="nas")
            reader.enter_context(began)
            reader_began.append(True)
            monkeypatch.setattr(claim_files, "_seconds", later)
        taken(merging)

    reader_began: list[bool] = []
    awake = claim_files._seconds() + STALE + 1
    later = lambda: awake  # noqa: E731
    instead_of(monkeypatch, step, sleep_first)
    with reader:
        with pytest.raises(PointInUse, match=r"on nas is .* which began while this computer slept"):
            lab.merge(lab.set.points[1])
        merge.recover(lab.repository, Task())
        assert lab.set.journal is not None
    for path in claim_files_in(lab):  # the killed reader's
        let_it_be_old(path)
    merge.recover(lab.repository, Task())
    assert [point.sequence for point in lab.set.points] == [2, 3, 4]
    lab.check_all()


def test_a_merge_that_slept_while_nobody_read_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake = claim_files._seconds() + STALE + 1
    taken = run_of("take over")

    def sleep_first(merging: Merging) -> None:
        for path in claim_files_in(lab):
            path.unlink()
        monkeypatch.setattr(claim_files, "_seconds", lambda: awake)
        taken(merging)
        assert len(claim_files_in(lab)) == 1  # it is seen again

    instead_of(monkeypatch, "take over", sleep_first)
    lab.merge(lab.set.points[1])
    lab.check_all()
