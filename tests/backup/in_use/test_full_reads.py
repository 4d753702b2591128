"""Of a tracked disk everything is read now and then, which shows whether its tracker is right."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.mounts import MAKERS, MIB, image
from tests.backup.in_use.devices import back_up, digest, reading, restored, use, written_to
from tests.noise import noise
from tests.sources.loops import loop, run, two_partitions
from vdbackup.agent import tracking
from vdbackup.agent.changes import BLOCK
from vdbackup.backup import capture
from vdbackup.consistency import How
from vdbackup.jobs import Task
from vdbackup.operations import against_source, delete
from vdbackup.operations.against_source import SourceVerdict
from vdbackup.operations.backup import BackupRequest, planned
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef

pytestmark = pytest.mark.usefixtures("as_root")

SIZE = 64 * MIB
EVERY_OTHER = Policy(read_all_every=2)
THREE = "3 blocks of 64 KiB that had changed without being marked"
PROOF = "every 2nd backup reads everything, as a proof"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """What lies behind the device."""
    return image(tmp_path / "disk.img", SIZE // MIB, "ext4")


@pytest.fixture
def device(stack: ExitStack, tmp_path: Path, disk: Path) -> Path:
    """A mounted ext4, tracked."""
    device = stack.enter_context(loop(disk))
    use(stack, device, tmp_path / "mount", "-o", "nodiscard")
    (tmp_path / "mount/first").write_bytes(noise(20 * MIB, 1))
    tracking.track(device).close()
    return device


def change_behind(disk: Path, count: int) -> None:
    """Change blocks that no file has, past the device, which no tracker of it sees."""
    with disk.open("r+b") as file:
        for number in range(1, count + 1):
            file.seek(SIZE - number * 3 * BLOCK)
            file.write(noise(4096, number))


@pytest.mark.parametrize("discard", [pytest.param("nodiscard", marks=pytest.mark.long), "discard"])
def test_every_nth_backup_reads_all_and_finds_nothing_wrong_under_load(
    stack, tmp_path, repository, frozen, disk, discard
):
    device = stack.enter_context(loop(disk))
    use(stack, device, tmp_path / "mount", "-o", discard)
    tracking.track(device).close()
    points = []
    with written_to(tmp_path / "mount", pause=0.05):
        for _ in range(5):
            made = back_up(repository, device, policy=EVERY_OTHER)
            assert made.warnings == ()
            points.append(made.point)
    assert [reading(each).changes_from for each in points] == ["scan", "tracker"] * 2 + ["scan"]
    assert [reading(each).scan_reason for each in points] == ["", "", PROOF, "", PROOF]
    assert [reading(each).read_bytes >= SIZE for each in points] == [True, False] * 2 + [True]
    with tracking.find(device) as tracked:
        assert tracked.doubt() == ""


def test_what_was_missed_is_found_and_said_and_the_next_backup_reads_everything(
    tmp_path, repository, frozen, disk, device
):
    back_up(repository, device, policy=EVERY_OTHER)
    change_behind(disk, 3)
    (tmp_path / "mount/second").write_bytes(noise(5 * MIB, 2))
    unseen = back_up(repository, device)
    assert unseen.warnings == ()
    assert reading(unseen.point).changes_from == "tracker"
    found = back_up(repository, device)
    (warning,) = found.warnings
    assert warning.startswith(f"A full read found {THREE}: the tracker is not believed any more.")
    assert digest(restored(repository, found.point, tmp_path / "found.raw")) == frozen.digests[-1]
    with tracking.find(device) as tracked:
        assert tracked.doubt() == f"a full read found {THREE}"
    after = back_up(repository, device)
    assert after.warnings == ()
    assert reading(after.point).scan_reason == f"tracking was begun anew: a full read found {THREE}"
    (tmp_path / "mount/third").write_bytes(noise(5 * MIB, 3))
    again = back_up(repository, device)
    assert again.warnings == ()
    assert reading(again.point).changes_from == "tracker"
    assert digest(restored(repository, again.point, tmp_path / "again.raw")) == frozen.digests[-1]


def test_what_the_file_system_has_given_back_unseen_is_no_miss(repository, frozen, disk, device):
    """As a discard does that was handed in before the last point's moment, and done after it."""
    change_behind(disk, 3)
    back_up(repository, device)
    with disk.open("r+b") as file:
        for number in range(1, 4):
            file.seek(SIZE - number * 3 * BLOCK)
            file.write(bytes(4096))
    assert back_up(repository, device, policy=Policy(read_all_every=1)).warnings == ()


def test_what_the_point_before_could_not_read_is_no_miss(repository, frozen, disk, device):
    first = back_up(repository, device).point
    lost = replace(first, unreadable=tuple((SIZE - n * 3 * BLOCK, 4096) for n in (3, 2, 1)))
    repository.save_point(repository.set().name, lost)
    change_behind(disk, 3)
    made = back_up(repository, device, policy=Policy(read_all_every=1))
    assert made.warnings == ()
    assert made.point.stored_bytes >= 3 * BLOCK


def test_a_swap_area_changes_whatever_is_frozen_and_is_no_miss(stack, tmp_path, repository, disk):
    behind = image(tmp_path / "parted.img", 96)
    first, second = stack.enter_context(two_partitions(behind))
    run(*MAKERS["ext4"][1], second)
    use(stack, second, tmp_path / "mount", "-o", "nodiscard")
    run("mkswap", first)
    run("swapon", first)
    stack.callback(run, "swapoff", first)
    whole = Path(str(first).removesuffix("p1"))
    tracking.track(whole).close()
    back_up(repository, whole)
    with behind.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(noise(4096, 1))
    made = back_up(repository, whole, policy=Policy(read_all_every=1))
    assert made.warnings == ()
    assert reading(made.point).scan_reason == "each backup reads everything, as a proof"
    assert compare(repository).ok


def test_one_backup_reads_everything_when_it_is_asked_to(repository, device):
    back_up(repository, device)
    with planned(BackupRequest(SourceRef.of_path(device), repository.path, read_all=True)) as plan:
        made = capture.run(plan, Task())
    assert reading(made.point).changes_from == "scan"
    assert reading(made.point).scan_reason == "it was asked for"
    assert reading(back_up(repository, device).point).changes_from == "tracker"


def test_where_the_policy_says_never_no_backup_reads_everything(repository, device):
    back_up(repository, device, policy=Policy(read_all_every=None))
    kinds = [reading(back_up(repository, device).point).changes_from for _ in range(12)]
    assert set(kinds) == {"tracker"}


def test_every_nth_backup_is_counted_though_older_points_are_merged(repository, device):
    """No more than two points are ever there."""
    policy = Policy(keep=2, read_all_every=4, retarget=False)
    points = [back_up(repository, device, policy=policy).point for _ in range(6)]
    assert len(repository.set().points) == 2
    kinds = [reading(each).changes_from for each in points]
    assert kinds == ["scan", *["tracker"] * 3, "scan", "tracker"]


def test_every_nth_backup_is_counted_though_points_are_deleted(tmp_path, repository, device):
    policy = Policy(read_all_every=3, retarget=False)
    points = [back_up(repository, device, policy=policy).point for _ in range(3)]
    for point in points[:2]:
        delete.run(delete.plan(repository, repository.set().name, point.id), tmp_path, Task())
    assert reading(back_up(repository, device).point).scan_reason.startswith("every 3rd backup")


# --------------------------------------------------------------------- verify --against-source


def compare(repository: Repository, point: str | None = None) -> SourceVerdict:
    with against_source.planned(repository, None, point) as plan:
        return against_source.run(plan, Task())


def test_a_source_differs_from_its_point_in_what_is_marked(tmp_path, repository, frozen, device):
    back_up(repository, device)
    (tmp_path / "mount/second").write_bytes(noise(9 * MIB, 2))
    verdict = compare(repository)
    assert verdict.ok
    assert verdict.consistency.how is How.FROZEN
    assert verdict.read_bytes >= SIZE
    assert verdict.claim.missed == verdict.given_back_bytes == 0
    assert 9 * MIB <= verdict.claim.marked == verdict.differing_bytes < SIZE / 2


def test_a_comparison_takes_no_change_from_the_next_backup(tmp_path, repository, frozen, device):
    back_up(repository, device)
    (tmp_path / "mount/second").write_bytes(noise(9 * MIB, 2))
    with written_to(tmp_path / "mount", pause=0.2):
        for _ in range(2):
            assert compare(repository).ok
        point = back_up(repository, device).point
    assert reading(point).changes_from == "tracker"
    assert reading(point).read_bytes >= 9 * MIB
    assert digest(restored(repository, point, tmp_path / "again.raw")) == frozen.digests[-1]
    assert compare(repository).ok


def test_a_comparison_takes_no_change_either_where_the_point_was_not_noted(
    tmp_path, repository, frozen, device, monkeypatch
):
    """Its maker was killed before it let the tracker know that the point is there."""
    back_up(repository, device)
    with monkeypatch.context() as patch:
        patch.setattr("vdbackup.sources.live_rounds.LiveRounds.keep", lambda _: None)
        back_up(repository, device)
    (tmp_path / "mount/second").write_bytes(noise(9 * MIB, 2))
    assert compare(repository).claim.marked >= 9 * MIB
    point = back_up(repository, device).point
    assert reading(point).changes_from == "tracker"
    assert digest(restored(repository, point, tmp_path / "again.raw")) == frozen.digests[-1]


def test_what_a_point_could_not_read_is_not_compared(repository, device):
    first = back_up(repository, device).point
    whole = replace(first, unreadable=((0, SIZE),))
    repository.save_point(repository.set().name, whole)
    verdict = compare(repository)
    assert (verdict.ok, verdict.differing_bytes) == (True, 0)


@pytest.mark.parametrize("discard", [pytest.param("nodiscard", marks=pytest.mark.long), "discard"])
def test_a_comparison_finds_nothing_wrong_under_load(
    stack, tmp_path, repository, frozen, disk, discard
):
    device = stack.enter_context(loop(disk))
    use(stack, device, tmp_path / "mount", "-o", discard)
    tracking.track(device).close()
    back_up(repository, device)
    with written_to(tmp_path / "mount", pause=0.05):
        for _ in range(3):
            verdict = compare(repository)
            assert (verdict.ok, verdict.unclaimed, verdict.warnings) == (True, "", ())


def test_a_comparison_finds_what_was_missed_before_any_backup_does(
    repository, frozen, disk, device
):
    back_up(repository, device)
    change_behind(disk, 3)
    verdict = compare(repository)
    assert not verdict.ok
    assert verdict.claim.missed == 3 * BLOCK
    after = back_up(repository, device)
    assert reading(after.point).scan_reason == f"tracking was begun anew: a full read found {THREE}"
    assert compare(repository).ok


def test_of_a_disk_that_nobody_tracks_it_is_said_how_much_differs(
    stack, tmp_path, repository, disk
):
    device = stack.enter_context(loop(disk))
    with ExitStack() as in_use:
        use(in_use, device, tmp_path / "mount", "-o", "nodiscard")
        back_up(repository, device)
        (tmp_path / "mount/second").write_bytes(noise(9 * MIB, 2))
        verdict = compare(repository)
    assert (verdict.ok, verdict.claim) == (True, None)
    assert verdict.unclaimed == "nobody tracks what changes on it"
    assert verdict.differing_bytes >= 9 * MIB
    unmounted = compare(repository)
    assert unmounted.consistency.how is How.UNMOUNTED
    assert (unmounted.ok, unmounted.claim) == (True, None)
    assert unmounted.unclaimed.startswith("it is not in use")


def test_of_an_older_point_nothing_is_claimed(tmp_path, repository, device):
    first = back_up(repository, device).point
    (tmp_path / "mount/second").write_bytes(noise(9 * MIB, 2))
    back_up(repository, device)
    verdict = compare(repository, first.id)
    assert verdict.claim is None
    assert verdict.unclaimed == "what changed since then was not kept"
    assert verdict.differing_bytes >= 9 * MIB
    assert reading(back_up(repository, device).point).changes_from == "tracker"


def test_what_cannot_be_read_as_of_one_moment_proves_nothing(
    tmp_path, repository, disk, device, monkeypatch
):
    back_up(repository, device)
    change_behind(disk, 3)
    monkeypatch.setattr("vdbackup.agent.last_set.MAX_SIZE", 64 << 10)
    with written_to(tmp_path / "mount"):
        verdict = compare(repository)
    assert verdict.claim is None
    assert verdict.unclaimed == "it could not be read as of one moment"
    assert "faster than it can be read" in verdict.warnings[-1]
    with tracking.find(device) as tracked:
        assert tracked.doubt() == ""
