"""Of a disk that is tracked a backup reads only what has changed; in any doubt all of it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.mounts import MIB, image
from tests.backup.in_use.devices import back_up, digest, reading, restored, use, written_to
from tests.noise import noise
from tests.sources.loops import loop
from tests.sources.opened import open_path
from vdbackup.agent import tracking
from vdbackup.backup import capture
from vdbackup.errors import Cancelled
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.repository.repository import Repository
from vdbackup.sources.moment import Wanted

pytestmark = pytest.mark.usefixtures("as_root")

SIZE = 64 * MIB


@pytest.fixture
def device(stack: ExitStack, tmp_path: Path) -> Path:
    """A mounted ext4, tracked."""
    device = stack.enter_context(loop(image(tmp_path / "disk.img", SIZE // MIB, "ext4")))
    use(stack, device, tmp_path / "mount", "-o", "nodiscard")
    (tmp_path / "mount/first").write_bytes(noise(20 * MIB, 1))
    tracking.track(device).close()
    return device


def test_an_incremental_reads_what_has_changed_and_is_the_whole_device(
    tmp_path, repository, frozen, device
):
    first = back_up(repository, device).point
    assert (reading(first).changes_from, reading(first).scan_reason) == ("scan", "")
    assert reading(first).read_bytes >= SIZE
    points = [first]
    for number in range(2):
        with written_to(tmp_path / "mount", pause=0.2):
            points.append(back_up(repository, device).point)
        assert reading(points[-1]).changes_from == "tracker", number
        assert reading(points[-1]).read_bytes < SIZE / 2
    for point, wanted in zip(points, frozen.digests, strict=True):
        assert digest(restored(repository, point, tmp_path / f"{point.id}.raw")) == wanted


def test_what_changed_before_a_backup_that_was_cancelled_is_in_the_next(
    tmp_path, repository, frozen, device
):
    back_up(repository, device)
    (tmp_path / "mount/second").write_bytes(noise(9 * MIB, 2))
    cancel = CancelToken()

    def stop(_: Progress) -> None:
        cancel.cancel()

    with open_path(device) as source, pytest.raises(Cancelled):
        capture.run(capture.plan(repository, source), Task(stop, cancel))
    point = back_up(repository, device).point
    assert reading(point).changes_from == "tracker"
    assert reading(point).read_bytes >= 9 * MIB
    assert digest(restored(repository, point, tmp_path / "again.raw")) == frozen.digests[-1]


def test_a_point_whose_maker_was_killed_before_it_noted_it_is_gone_on_from(
    tmp_path, repository, frozen, device, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("vdbackup.sources.live_rounds.LiveRounds.keep", lambda _: None)
        back_up(repository, device)
    (tmp_path / "mount/second").write_bytes(noise(9 * MIB, 2))
    point = back_up(repository, device).point
    assert reading(point).changes_from == "tracker"
    assert digest(restored(repository, point, tmp_path / "again.raw")) == frozen.digests[-1]


def test_two_sets_of_one_disk_miss_nothing_of_each_other(tmp_path, repository, frozen, device):
    other = Repository.create(tmp_path / "other")
    for each in (repository, other):
        back_up(each, device)
    (tmp_path / "mount/second").write_bytes(noise(9 * MIB, 2))
    for number, each in enumerate((repository, other)):
        point = back_up(each, device).point
        assert reading(point).changes_from == "tracker"
        raw = restored(each, point, tmp_path / f"{number}.raw")
        assert digest(raw) == frozen.digests[-1]


def test_tracking_that_was_begun_anew_means_a_full_read_that_says_so(tmp_path, repository, device):
    back_up(repository, device)
    tracking.untrack(device)
    without = back_up(repository, device).point
    assert reading(without).scan_reason == "nobody tracks what changes on it"
    tracking.track(device).close()
    assert reading(back_up(repository, device).point).changes_from == "scan"
    tracking.untrack(device)
    tracking.track(device).close()
    again = back_up(repository, device).point
    assert reading(again).changes_from == "scan"
    assert reading(again).scan_reason == "tracking was begun anew"
    assert reading(again).read_bytes >= SIZE
    assert reading(back_up(repository, device).point).changes_from == "tracker"


def test_after_a_point_as_it_is_all_is_read(repository, device):
    back_up(repository, device)
    as_it_is = back_up(repository, device, consistency=Wanted.AS_IS).point
    assert as_it_is.reading is not None
    assert as_it_is.reading.tracker is None
    after = reading(back_up(repository, device).point)
    assert after.changes_from == "scan"
    assert after.scan_reason == "the tracker does not know the point before"


def test_a_full_that_is_asked_for_reads_all_and_the_next_goes_on_from_it(repository, device):
    back_up(repository, device)
    full = back_up(repository, device, kind="full").point
    assert reading(full).changes_from == "scan"
    assert reading(full).read_bytes >= SIZE
    assert reading(back_up(repository, device).point).changes_from == "tracker"
