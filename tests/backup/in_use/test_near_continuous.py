"""A point every so many seconds: each is the device as it was frozen, none where nothing was."""

from __future__ import annotations

import hashlib
import importlib
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.agents import agents_for
from tests.agent.mounts import MIB, image
from tests.backup.in_use.devices import Frozen, digest, reading, restored, use, written_to
from tests.noise import noise
from tests.sources.loops import loop
from tests.sources.ordinary_user import as_an_ordinary_user, open_folder
from vdbackup.agent import client, tracking
from vdbackup.errors import NotTracked, UsageError
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.operations import near_continuous
from vdbackup.operations.backup import BackupRequest
from vdbackup.operations.machines import Machines
from vdbackup.operations.near_continuous import NearRequest, NearResult, Told
from vdbackup.operations.policy import Change
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef

pytestmark = pytest.mark.usefixtures("as_root")

SIZE = 128 * MIB
KINDS = ("ext4", *(pytest.param(each, marks=pytest.mark.long) for each in ("xfs", "btrfs")))


@pytest.fixture
def kind() -> str:
    return "ext4"


@pytest.fixture
def device(stack: ExitStack, tmp_path: Path, kind: str) -> Path:
    """A mounted file system, whose changes are tracked."""
    size = SIZE if kind == "ext4" else 3 * SIZE
    device = stack.enter_context(loop(image(tmp_path / "disk.img", size // MIB, kind)))
    use(stack, device, tmp_path / "mount", "-o", "nodiscard" if kind != "xfs" else "rw")
    (tmp_path / "mount/first").write_bytes(noise(5 * MIB, 1))
    tracking.track(device).close()
    return device


class Run:
    """Points of a device each second, until so many were made, or the time is over.

    Attributes:
        repository: where they are.
        wanted: how many are made at most.
        between: is called after each with how many there are by then.
        said: what was told.
        cancel: ends it.
    """

    def __init__(
        self, repository: Repository, device: Path, machines: Machines, wanted: int = 1000
    ) -> None:
        self.repository, self._device, self._machines = repository, device, machines
        self.wanted = wanted
        self.between: Callable[[int], object] = lambda _made: None
        self.said: list[Told] = []
        self.cancel = CancelToken()

    @property
    def points(self) -> tuple[RecoveryPoint, ...]:
        return self.repository.set().points

    def _tell(self, told: Told) -> None:
        self.said.append(told)
        made = len([each for each in self.said if each.made])
        if made >= self.wanted:
            self.cancel.cancel()
        else:
            self.between(made)

    def __call__(
        self,
        lasts: float | None = None,
        report: Callable[[Progress], None] = lambda _progress: None,
        policy: Change | None = None,
    ) -> NearResult:
        asked = BackupRequest(
            SourceRef.of_path(self._device),
            self.repository.path,
            all_blocks=True,
            policy=policy or Change(),
        )
        request = NearRequest(asked, every=1, lasts=lasts)
        return near_continuous.run(request, self._machines, Task(report, self.cancel), self._tell)


@pytest.fixture
def run(repository: Repository, device: Path, tmp_path: Path) -> Run:
    return Run(repository, device, Machines(tmp_path / "sessions"))


@pytest.mark.parametrize("kind", KINDS)
def test_each_point_is_the_device_as_it_was_frozen_while_programs_write(
    run: Run, frozen: Frozen, tmp_path: Path, kind: str
) -> None:
    run.wanted = 4
    with written_to(tmp_path / "mount", pause=0.05):
        done = run()
    assert (done.points, done.left_out) == (4, 0)
    assert [reading(point).changes_from for point in run.points] == ["scan"] + 3 * ["tracker"]
    assert len(run.points) == len(frozen.digests) == 4
    for point, wanted in zip(run.points, frozen.digests, strict=True):
        assert digest(restored(run.repository, point, tmp_path / f"{point.id}.raw")) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_no_point_is_made_where_nothing_has_changed(run: Run, kind: str) -> None:
    ends = threading.Timer(8, run.cancel.cancel)  # from the first point on, however long it takes
    run.between = lambda _made: ends.start()
    done = run()
    ends.cancel()
    assert done.points == len(run.points) == 1
    assert done.unchanged >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_change_makes_a_point_also_what_is_in_memory_alone(
    run: Run, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "mount/first"

    def change(made: int) -> None:
        with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as memory:
            memory[made * MIB] ^= 0xFF  # one byte, which nobody writes out

    run.wanted, run.between = 4, change
    done = run(lasts=120)
    assert (done.points, done.unchanged) == (4, 0)


def test_a_point_that_is_cancelled_is_absent_and_the_next_run_goes_on(
    run: Run, frozen: Frozen, device: Path, tmp_path: Path
) -> None:
    (tmp_path / "mount/second").write_bytes(noise(9 * MIB, 2))
    run.between = lambda _made: (tmp_path / "mount/third").write_bytes(noise(9 * MIB, 3))

    def stop(progress: Progress) -> None:
        if len(run.said) == 1 and progress.done:
            run.cancel.cancel()

    done = run(report=stop)
    assert (done.points, len(run.points)) == (1, 1)
    assert not list(run.repository.path.rglob("*.partial"))
    near = run.repository.set().settings.near
    assert near is not None
    assert (near.every, near.why) == (1, "That was asked for.")
    assert near.ended is not None
    again = Run(run.repository, device, Machines(tmp_path / "sessions"), wanted=1)
    assert again().points == 1
    assert reading(again.points[-1]).changes_from == "tracker"
    raw = restored(run.repository, again.points[-1], tmp_path / "again.raw")
    assert digest(raw) == frozen.digests[-1]


def test_old_points_are_merged_by_the_policy_that_was_given(
    run: Run, frozen: Frozen, tmp_path: Path
) -> None:
    run.wanted = 5
    run.between = lambda made: (tmp_path / f"mount/{made}").write_bytes(noise(MIB, made))
    run(policy=Change(keep=2))
    assert [point.sequence for point in run.points] == [4, 5]
    for point, wanted in zip(run.points, frozen.digests[-2:], strict=True):
        assert digest(restored(run.repository, point, tmp_path / f"{point.id}.raw")) == wanted
    policy = run.repository.set().settings.policy
    assert (policy.keep, policy.read_all_every) == (2, 86400)


def test_what_is_in_the_way_for_a_moment_costs_a_point_and_no_more(
    run: Run, tmp_path: Path
) -> None:
    held = ExitStack()

    def hold(made: int) -> None:
        if not held.__dict__.get("was"):
            held.was = True  # type: ignore[attr-defined]
            (tmp_path / "mount/second").write_bytes(noise(MIB, 2))
            held.enter_context(run.repository.lock("testing"))
        else:
            held.close()

    run.wanted, run.between = 2, hold
    with held:
        done = run()
    assert (done.points, done.left_out) == (2, 1)
    (trouble,) = [each.trouble for each in run.said if each.trouble]
    assert "testing" in trouble.title


def test_only_what_is_tracked_is_protected_so(run: Run, device: Path, tmp_path: Path) -> None:
    run.between = lambda _made: tracking.untrack(device)
    with pytest.raises(NotTracked, match="Nobody tracks"):
        run()
    assert len(run.points) == 1
    near = run.repository.set().settings.near
    assert near is not None
    assert "Nobody tracks" in near.why
    with pytest.raises(NotTracked):
        run()
    some = Run(run.repository, tmp_path / "disk.img", Machines(tmp_path / "sessions"))
    with pytest.raises(UsageError, match="cannot be made every some seconds"):
        some()


def test_the_agent_does_for_an_ordinary_user_what_only_root_may(stack: ExitStack, tmp_path) -> None:
    """Each point is what the agent saw on the device within its freeze."""
    folder = stack.enter_context(open_folder())
    device = stack.enter_context(loop(image(tmp_path / "disk.img", SIZE // MIB, "ext4")))
    use(stack, device, folder / "mount", "-o", "nodiscard")
    (folder / "mount").chmod(0o777)
    agents = stack.enter_context(agents_for(tmp_path / "bpf"))
    agents.allow(device)
    for late in ("vdbackup.recovery.retarget.policy", "vdbackup.operations.relinking"):
        importlib.import_module(late)  # where Python lies the ordinary user may not look
    with as_an_ordinary_user():
        client.track(device)
        run = Run(Repository.create(folder / "backups"), device, Machines(folder / "sessions"))
        run.wanted = 3
        run.between = lambda made: (folder / f"mount/{made}").write_bytes(noise(MIB, made))
        done = run()
        assert (done.points, done.left_out) == (3, 0)
        assert [reading(point).changes_from for point in run.points] == ["scan"] + 2 * ["tracker"]
    for point, wanted in zip(run.points, agents.frozen, strict=True):
        raw = restored(run.repository, point, folder / f"{point.id}.raw")
        assert hashlib.blake2b(raw.read_bytes()).hexdigest() == wanted


PROGRAM = """
import sys
from pathlib import Path
from vdbackup.agent import pins
pins.BPFFS = Path(sys.argv.pop(1))
from vdbackup.__main__ import main
sys.exit(main())
"""


def commanded(bpffs: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["env", "--default-signal=INT,HUP", sys.executable, "-c", PROGRAM, str(bpffs),
         *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def test_the_command_runs_until_ctrl_c_and_says_what_it_did(
    device: Path, repository: Repository, tmp_path: Path
) -> None:
    bpffs = tmp_path / "bpf"
    process = commanded(
        bpffs, "protect", device, "--every", "1s", "-r", repository.path, "--keep-within", "1h",
        "--json",
    )  # fmt: skip
    assert process.stdout is not None
    points = 0
    try:
        for line in process.stdout:
            said = json.loads(line)
            if said["event"] == "point":
                points += 1
                (tmp_path / f"mount/{points}").write_bytes(noise(MIB, points))
            if points == 3:
                break
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, "")
    result = json.loads(out.splitlines()[-1])
    whole = repository.set()
    assert result == {
        "event": "result", "set": whole.name, "points": len(whole.points),
        "unchanged": result["unchanged"], "left_out": 0,
    }  # fmt: skip
    assert len(whole.points) >= 3
    assert not list(repository.path.rglob("*.partial"))
    assert whole.settings.near is not None
    assert whole.settings.policy.keep_within == 1
    listed = subprocess.run(
        [sys.executable, "-m", "vdbackup", "moments", "-r", repository.path, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (near,) = json.loads(listed.stdout)
    assert (near["kind"], near["every_seconds"]) == ("near-continuous", 1)
    assert [each["point"] for each in near["moments"]] == [point.id for point in whole.points]
    assert near["why"] == "That was asked for."
    said = subprocess.run(
        [sys.executable, "-m", "vdbackup", "moments", "-r", repository.path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "a point every 1 s where something had changed (not every write)" in said.stdout


def test_the_command_ends_when_its_time_is_over(
    device: Path, repository: Repository, tmp_path: Path
) -> None:
    began = time.monotonic()
    process = commanded(
        tmp_path / "bpf", "protect", device, "--every", "1s", "--for", "3s", "-r", repository.path
    )
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert time.monotonic() - began >= 3
    assert "point 1: " in out
    assert "1 point was made" in out
    near = repository.set().settings.near
    assert near is not None
    assert near.why == "Its time was over."
