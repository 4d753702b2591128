"""A device that is written to is backed up as of one moment: real file systems, real writers."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.agent.mounts import FREEZABLE, MAKERS, MIB, freeze, image, is_frozen
from tests.backup.in_use.devices import (
    assert_clean_after_mount,
    assert_databases_are_whole,
    assert_sound,
    at,
    back_up,
    digest,
    restored,
    use,
    written_to,
)
from tests.noise import noise
from tests.sources.loops import loop, mounted, run, two_partitions
from tests.sources.opened import open_path
from vdbackup.agent import file_systems, in_use, pins, tracking
from vdbackup.agent.block_devices import Disk
from vdbackup.agent.changes import Harvest, Token
from vdbackup.agent.file_systems import Together
from vdbackup.agent.freezing import FileSystem, Freeze
from vdbackup.agent.in_use import Asked, InUse, Round
from vdbackup.backup import capture
from vdbackup.consistency import How
from vdbackup.errors import FreezeUndone, NotFrozen, SourceError
from vdbackup.jobs import Task
from vdbackup.recovery import verify
from vdbackup.repository.model import ChangesFrom
from vdbackup.repository.repository import Repository
from vdbackup.sources import live_rounds
from vdbackup.sources.live_rounds import LiveRounds
from vdbackup.sources.moment import Wanted

pytestmark = pytest.mark.usefixtures("as_root")

SIZES = {"ext4": 96, "xfs": 304, "btrfs": 192}
"""MiB: what each needs at least, and what the writers do."""


@pytest.mark.parametrize("kind", FREEZABLE)
def test_a_device_under_load_is_backed_up_as_it_was_while_frozen(
    stack, tmp_path, repository, frozen, kind
):
    disk = image(tmp_path / "disk.img", SIZES[kind], kind)
    device = stack.enter_context(loop(disk))
    with ExitStack() as in_use:
        options = {"ext4": "nodiscard", "xfs": "nodiscard", "btrfs": "nodiscard"}[kind]
        use(in_use, device, tmp_path / "mount", "-o", options)
        with written_to(tmp_path / "mount", pause=0.05):
            made = [back_up(repository, device, consistency=Wanted.FROZEN) for _ in range(2)]
    for number, each in enumerate(made):
        assert each.warnings == ()
        consistency = each.point.reading.consistency
        assert (consistency.how, consistency.left_out) == (How.FROZEN, ())
        assert consistency.frozen_ms > 0
        assert consistency.rounds >= 1
        raw = restored(repository, each.point, tmp_path / f"{number}.raw")
        assert digest(raw) == frozen.digests[number]
        assert_sound(raw, kind)
        with mounted(raw, tmp_path / "restored", "-o", "loop") as folder:
            assert_databases_are_whole(folder)
        assert_clean_after_mount(raw, kind)
    plan = verify.plan(repository, repository.set().name)
    assert all(verdict.ok for verdict in verify.run(plan, Task()))


@pytest.fixture
def parted(stack: ExitStack, tmp_path: Path) -> list[Path]:
    """A disk of three partitions, and these."""
    disk = image(tmp_path / "disk.img", 560)
    table = "label: gpt\nsize=64MiB\nsize=304MiB\nsize=160MiB\n"
    run("sfdisk", "--quiet", disk, stdin=table)
    device = stack.enter_context(loop(disk))
    run("partx", "--add", device)
    stack.callback(run, "partx", "--delete", device)
    return [device, *(Path(f"{device}p{number}") for number in (1, 2, 3))]


def test_file_systems_on_one_disk_are_as_of_one_moment(stack, tmp_path, repository, frozen, parted):
    disk, *parts = parted
    with ExitStack() as in_use:
        for kind, part in zip(FREEZABLE, parts, strict=True):
            run(*MAKERS[kind][1], part)
            use(in_use, part, tmp_path / kind, "-o", "nodiscard")
            in_use.enter_context(written_to(tmp_path / kind, pause=0.1))
        made = back_up(repository, disk, consistency=Wanted.FROZEN)
    assert made.warnings == ()
    raw = restored(repository, made.point, tmp_path / "again.raw")
    assert digest(raw) == frozen.digests[-1]
    for number, kind in enumerate(FREEZABLE, 1):
        part = at(raw, number, tmp_path)
        assert_sound(part, kind)
        with mounted(part, tmp_path / "restored", "-o", "loop") as folder:
            assert_databases_are_whole(folder)


def test_a_partition_is_backed_up_without_its_neighbour(
    stack, tmp_path, repository, frozen, parted
):
    """The disk is what is tracked, and the partition begins at no multiple of a block of that."""
    parts = parted[1:]
    for number, part in enumerate(parts[::2]):
        run(*MAKERS["ext4"][1], part)
        use(stack, part, tmp_path / str(number), "-o", "nodiscard")
        stack.enter_context(written_to(tmp_path / str(number), pause=0.05))
    made = back_up(repository, parts[2], consistency=Wanted.FROZEN)
    assert digest(restored(repository, made.point, tmp_path / "again.raw")) == frozen.digests[-1]


def test_what_somebody_else_froze_is_left_alone_and_said(stack, tmp_path, repository, monkeypatch):
    monkeypatch.setattr(in_use, "_OTHERS", 0.5)
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 48, "ext4")))
    found = use(stack, device, tmp_path / "mount")
    freeze(found)
    made = back_up(repository, device)
    assert made.point.reading.consistency.how is How.AS_IS
    assert "frozen already, by another program" in made.warnings[-1]
    with pytest.raises(NotFrozen, match="frozen already, by another program"):
        back_up(repository, device, consistency=Wanted.FROZEN)
    assert is_frozen(found)
    assert len(repository.set().points) == 1


def test_two_who_back_up_one_disk_at_once_both_get_a_moment(stack, tmp_path):
    """Each freezes it, and neither undoes nor waits for ever for what the other has frozen."""
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 96, "ext4")))
    found = use(stack, device, tmp_path / "mount", "-o", "nodiscard")
    both = [Repository.create(tmp_path / name) for name in ("one", "other")]
    with written_to(tmp_path / "mount", pause=0.05), ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda each: back_up(each, device, consistency=Wanted.FROZEN), both))
    assert not is_frozen(found)
    for repository, each in zip(both, made, strict=True):
        assert each.warnings == ()
        assert each.point.reading.consistency.how is How.FROZEN
        raw = restored(repository, each.point, tmp_path / f"{repository.path.name}.raw")
        assert_sound(raw, "ext4")


def test_as_it_is_nobody_is_held_back(stack, tmp_path, repository, monkeypatch):
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 48, "ext4")))
    use(stack, device, tmp_path / "mount")
    monkeypatch.setattr(live_rounds, "LiveRounds", None)
    made = back_up(repository, device, consistency=Wanted.AS_IS)
    assert made.point.reading.consistency.how is How.AS_IS


def test_a_disk_that_is_tracked_for_the_backup_alone_is_not_tracked_afterwards(
    stack, tmp_path, repository
):
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 48, "ext4")))
    use(stack, device, tmp_path / "mount")
    back_up(repository, device, consistency=Wanted.FROZEN)
    assert tracking.find(device) is None
    tracking.track(device).close()
    stack.callback(tracking.untrack, device)
    back_up(repository, device, consistency=Wanted.FROZEN)
    there = tracking.find(device)
    assert there is not None
    with there:
        (follower,) = there.status().followers
        assert follower == f"{repository.set().name} in {repository.id[:8]}"


KILLED = """
import os, signal, sys
from pathlib import Path
from vdbackup.agent import in_use, pins
pins.BPFFS = Path(sys.argv[2])
with in_use._for_now(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_backup_tracked_the_disk_by_goes_with_the_next_backup(
    stack, tmp_path, repository
):
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 48, "ext4")))
    use(stack, device, tmp_path / "mount")
    killed = subprocess.run([sys.executable, "-c", KILLED, device, pins.BPFFS], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = tracking.find(device)
    assert left is not None
    with left:
        assert len(left.names()) == 1
    made = back_up(repository, device, consistency=Wanted.FROZEN)
    assert made.point.reading.changes_from is ChangesFrom.SCAN
    assert tracking.find(device) is None


def test_a_file_system_that_is_mounted_meanwhile_is_frozen_with_the_others(
    stack, tmp_path, repository, frozen, monkeypatch
):
    """It was written to when the last set was to be read, and nothing held that back."""
    first, second = stack.enter_context(two_partitions(image(tmp_path / "disk.img", 128)))
    for part in (first, second):
        run(*MAKERS["ext4"][1], part)
    use(stack, first, tmp_path / "first", "-o", "nodiscard")
    seen: list[int] = []
    is_all = Together.is_all

    def mounted_before(together: Together) -> bool:
        if not seen:
            folder = use_now(stack, second, tmp_path / "second")
            (folder / "file").write_bytes(noise(MIB, 1))
            stack.enter_context(written_to(folder, pause=0.05))
        seen.append(len(together._open))
        return is_all(together)

    with monkeypatch.context() as patch:
        patch.setattr(Together, "is_all", mounted_before)
        disk = Path(str(first).removesuffix("p1"))
        made = back_up(repository, disk, consistency=Wanted.FROZEN)
    assert made.warnings == ()
    assert (seen[0], seen[-1]) == (1, 2)
    raw = restored(repository, made.point, tmp_path / "again.raw")
    assert digest(raw) == frozen.digests[-1]
    assert made.point.reading.consistency.left_out == ()


def use_now(stack: ExitStack, device: Path, folder: Path) -> Path:
    return stack.enter_context(mounted(device, folder, "-o", "nodiscard"))


def test_a_repository_in_a_file_on_what_is_frozen_does_not_wait_for_itself(stack, tmp_path):
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 400, "ext4")))
    below = use(stack, device, tmp_path / "below")
    inner = image(tmp_path / "below/inner.img", 200, "ext4")
    inside = stack.enter_context(loop(inner))
    above = use(stack, inside, tmp_path / "above")
    repository = Repository.create(tmp_path / "above/repository")
    with written_to(tmp_path / "below", pause=0.5):
        made = back_up(repository, device)
    assert made.point.reading.consistency.how is How.FROZEN
    assert [is_frozen(each) for each in (below, above)] == [False, False]
    assert all(
        each.ok for each in verify.run(verify.plan(repository, repository.set().name), Task())
    )


def test_what_is_written_faster_than_it_is_read_ends_in_a_point_that_says_so(
    stack, tmp_path, repository, monkeypatch
):
    """A memory too small for what changes in each round is as good as a faster writer."""
    monkeypatch.setattr("vdbackup.agent.last_set.MAX_SIZE", 64 << 10)
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 48, "ext4")))
    use(stack, device, tmp_path / "mount")
    with written_to(tmp_path / "mount"):
        made = back_up(repository, device)
        with pytest.raises(NotFrozen, match="faster than it can be read"):
            back_up(repository, device, consistency=Wanted.FROZEN)
    reading = made.point.reading
    assert (reading.consistency.how, reading.consistency.at) == (How.AS_IS, None)
    assert reading.consistency.rounds <= live_rounds.MAX_ROUNDS
    assert "faster than it can be read" in made.warnings[-1]
    assert [
        each.ok for each in verify.run(verify.plan(repository, repository.set().name), Task())
    ] == [True]


NTFS = ("mkfs.ntfs", "--quick", "--quiet")
"""A file system that cannot be frozen (FUSE), and can be written to here; vfat is as one."""


def with_a_part_that_cannot_be_frozen(stack: ExitStack, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A disk; where its ext4 is mounted, and its NTFS."""
    first, second = stack.enter_context(two_partitions(image(tmp_path / "disk.img", 96)))
    run(*NTFS, first)
    run(*MAKERS["ext4"][1], second)
    use(stack, second, tmp_path / "ext4", "-o", "nodiscard")
    ntfs = stack.enter_context(mounted(first, tmp_path / "ntfs", "-t", "ntfs-3g"))
    return Path(str(first).removesuffix("p1")), tmp_path / "ext4", ntfs


def before_each_harvest(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Within the freeze of each round, not of the first: nothing had been read then."""
    look = InUse.round

    def watched(device: InUse, asked: Asked, since: Token) -> Round:
        harvest = device._follower.harvest

        def harvested(since: Token | None) -> Harvest:
            do()
            return harvest(since)

        with monkeypatch.context() as patch:
            patch.setattr(device._follower, "harvest", harvested)
            return look(device, asked, since)

    monkeypatch.setattr(InUse, "round", watched)


def test_what_cannot_be_frozen_is_read_until_it_is_quiet(
    stack, tmp_path, repository, frozen, monkeypatch
):
    disk, ext4, ntfs = with_a_part_that_cannot_be_frozen(stack, tmp_path)
    (ext4 / "first").write_bytes(noise(MIB, 1))
    rounds: list[int] = []

    def write() -> None:
        if len(rounds) < 3:
            (ntfs / f"{len(rounds)}").write_bytes(noise(MIB, len(rounds)))
            run("sync", "-f", ntfs)
        rounds.append(1)

    before_each_harvest(monkeypatch, write)
    made = back_up(repository, disk, consistency=Wanted.FROZEN)
    consistency = made.point.reading.consistency
    assert made.warnings == ()
    assert consistency.left_out == (f"{ntfs} (fuseblk), copied until it was quiet",)
    assert consistency.rounds > 3
    assert f"{ntfs} (fuseblk)" in made.notes[0]
    assert digest(restored(repository, made.point, tmp_path / "again.raw")) == frozen.digests[-1]


def test_what_was_on_its_way_past_the_file_systems_when_it_began_is_read_when_it_is_there(
    stack, tmp_path, repository, frozen, monkeypatch
):
    """A write that was marked before the reading, and came after it: here, behind the device."""
    disk, _, _ = with_a_part_that_cannot_be_frozen(stack, tmp_path)
    monkeypatch.setattr(Disk, "is_idle", lambda _: False)
    monkeypatch.setattr(in_use, "_SETTLES", 0.01)
    looks = itertools.count()

    def come() -> None:
        if next(looks) == 0:
            with (tmp_path / "disk.img").open("r+b") as image:
                image.seek(40 * MIB)  # where nothing is frozen
                image.write(noise(MIB, 1))

    before_each_harvest(monkeypatch, come)
    made = back_up(repository, disk, consistency=Wanted.FROZEN)
    assert made.warnings == ()
    assert digest(restored(repository, made.point, tmp_path / "again.raw")) == frozen.digests[-1]


def test_what_cannot_be_frozen_and_goes_on_is_said_to_be_mixed(
    stack, tmp_path, repository, monkeypatch
):
    disk, _, ntfs = with_a_part_that_cannot_be_frozen(stack, tmp_path)
    numbers = itertools.count()

    def write() -> None:
        (ntfs / "file").write_bytes(noise(MIB, next(numbers)))
        run("sync", "-f", ntfs)

    before_each_harvest(monkeypatch, write)
    made = back_up(repository, disk)
    assert made.point.reading.consistency.how is How.FROZEN
    assert made.point.reading.consistency.rounds == live_rounds.MAX_ROUNDS
    (warning,) = made.warnings
    assert f"written to until the end, and may mix old and new: {ntfs} (fuseblk)" in warning
    with pytest.raises(NotFrozen, match="written to until the end"):
        back_up(repository, disk, consistency=Wanted.FROZEN)


def test_a_device_that_is_gone_meanwhile_gives_no_point_and_stays_neither_frozen_nor_tracked(
    stack, tmp_path, repository
):
    """Its file is cut off: a loop device gives errors then, as a disk does that was unplugged."""
    disk = image(tmp_path / "disk.img", 48, "ext4")
    device = stack.enter_context(loop(disk))
    found = use(stack, device, tmp_path / "mount")
    gone: list[int] = []

    def unplug(_: object) -> None:
        if not gone:
            gone.append(1)
            os.truncate(disk, 0)

    with open_path(device) as source:
        plan = capture.plan(repository, source, all_blocks=True)  # little else is in use
        with pytest.raises(SourceError):
            capture.run(plan, Task(unplug))
    assert repository.set().points == ()
    assert not is_frozen(found)
    assert tracking.find(device) is None


def test_a_file_system_can_be_unmounted_while_its_device_is_backed_up(
    stack, tmp_path, repository, monkeypatch
):
    disk = image(tmp_path / "disk.img", SIZES["ext4"], "ext4")
    device = stack.enter_context(loop(disk))
    mount = stack.enter_context(ExitStack())
    folder = mount.enter_context(mounted(device, tmp_path / "mount", "-o", "nodiscard"))
    (folder / "file").write_bytes(noise(3 * MIB, 1))
    read = LiveRounds.readinto

    def unmounted_before(self: LiveRounds, offset: int, view: memoryview) -> None:
        if os.path.ismount(folder):
            (folder / "last").write_bytes(noise(2 * MIB, 2))
            mount.close()
        read(self, offset, view)

    monkeypatch.setattr(LiveRounds, "readinto", unmounted_before)
    made = back_up(repository, device, consistency=Wanted.FROZEN)
    assert made.warnings == ()
    raw = restored(repository, made.point, tmp_path / "again.raw")
    assert digest(raw) == digest(disk)
    assert_clean_after_mount(raw, "ext4")


@pytest.mark.parametrize("undone", [(1,), (3,), (2, 4)])
def test_a_freeze_that_was_undone_is_tried_once_more(
    stack, tmp_path, repository, frozen, monkeypatch, undone
):
    disk = image(tmp_path / "disk.img", SIZES["ext4"], "ext4")
    device = stack.enter_context(loop(disk))
    tried = itertools.count(1)
    whole = file_systems.frozen

    @contextmanager
    def cut_short(every: Sequence[FileSystem]) -> Iterator[Freeze]:
        with whole(every) as freeze:
            yield freeze
        if next(tried) in undone:
            raise FreezeUndone("They did not stay frozen.", "")

    monkeypatch.setattr(file_systems, "frozen", cut_short)
    with ExitStack() as in_use:
        use(in_use, device, tmp_path / "mount", "-o", "nodiscard")
        with written_to(tmp_path / "mount", pause=0.05):
            made = back_up(repository, device, consistency=Wanted.FROZEN)
    assert next(tried) > max(undone)
    assert made.warnings == ()
    assert digest(restored(repository, made.point, tmp_path / "again.raw")) == frozen.digests[-1]


def test_two_freezes_that_were_undone_after_each_other_end_in_a_copy_that_says_so(
    stack, tmp_path, repository, monkeypatch
):
    device = stack.enter_context(loop(image(tmp_path / "disk.img", SIZES["ext4"], "ext4")))
    whole = file_systems.frozen

    @contextmanager
    def cut_short(every: Sequence[FileSystem]) -> Iterator[Freeze]:
        with whole(every) as freeze:
            yield freeze
        raise FreezeUndone("They did not stay frozen.", "")

    monkeypatch.setattr(file_systems, "frozen", cut_short)
    use(stack, device, tmp_path / "mount", "-o", "nodiscard")
    made = back_up(repository, device)
    assert made.point.reading.consistency.how is How.AS_IS
    assert any("They did not stay frozen." in each for each in made.warnings)
