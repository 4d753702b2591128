"""One writer at a time: the lock names its holder, and goes with its process however that ends."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.once import once
from tests.noise import noise
from tests.oracles import qemu
from vdbackup.backup import delete, merge, repair
from vdbackup.disks.qemu_locks import is_open as used_by_vm
from vdbackup.errors import BackupError, RepositoryLocked
from vdbackup.jobs import Task
from vdbackup.operations import policy
from vdbackup.repository import lease
from vdbackup.repository.lease import LEASE_NAME
from vdbackup.repository.repository import Repository

HOLDER = """
import sys
from pathlib import Path
from vdbackup.repository.repository import Repository
with Repository.open(Path(sys.argv[1])).lock("backing up /dev/sdx"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(repository: Repository) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(repository.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repository")


def fails(*_: object) -> list[str]:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def is_told_to_stop(*_: object) -> list[str]:
    raise KeyboardInterrupt


def test_storage_that_fails_in_the_sweep_leaves_no_lease_that_keeps_others_out(
    repository, monkeypatch
):
    """Nobody would renew it, and on another computer it counts for five minutes."""
    with monkeypatch.context() as failing:
        failing.setattr(os, "listdir", fails)
        with repository.lock("backing up"):
            assert (repository.path / LEASE_NAME).exists()
    assert not (repository.path / LEASE_NAME).exists()


def test_a_ctrl_c_in_the_sweep_leaves_no_lease(repository, monkeypatch):
    monkeypatch.setattr(lease, "sweep", is_told_to_stop)
    with pytest.raises(KeyboardInterrupt), repository.lock("backing up"):
        raise AssertionError("never begun")
    assert not (repository.path / LEASE_NAME).exists()


def refusal(repository: Repository) -> str:
    with pytest.raises(RepositoryLocked) as error, repository.lock("anything"):
        pass
    assert error.value.advice
    return error.value.title


def test_the_holder_is_named_with_what_it_does_and_since_when(repository):
    with held_by_another_process(repository) as holder:
        title = refusal(repository)
    assert f"process {holder.pid} on " in title
    assert "backing up /dev/sdx" in title
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d", title)


def test_a_process_that_is_killed_leaves_no_lock(repository):
    with held_by_another_process(repository) as holder:
        holder.kill()
        holder.wait()
        with repository.lock("the next"):
            pass


def test_the_lock_is_free_after_an_operation_and_after_an_error(repository):
    with pytest.raises(ZeroDivisionError), repository.lock("failing"):
        raise ZeroDivisionError
    with repository.lock("the next"):
        pass


def test_one_process_does_not_get_the_lock_twice(repository):
    with repository.lock("the first"):
        assert "the first" in refusal(repository)


def test_reading_needs_no_lock(tmp_path):
    lab = Lab(tmp_path)
    point = lab.backup()
    with held_by_another_process(lab.repository):
        lab.check_ours(point)
        assert lab.repository.find("latest")[1] == point


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"pid": 1}', b"\xff\xfe"])
def test_a_holder_that_has_not_said_its_name_yet_is_another_program(repository, content):
    with held_by_another_process(repository):
        (repository.path / ".lock.json").write_bytes(content)
        assert "another program" in refusal(repository)


def test_whatever_writes_is_refused_while_another_process_writes(tmp_path):
    lab = Lab(tmp_path)
    lab.backup()
    lab.poke(0, noise(512, 1))
    child = lab.backup()
    plans = (
        merge.plan(lab.repository, "disk", child.id),
        delete.plan(lab.repository, "disk", child.id),
    )
    before = lab.files
    with held_by_another_process(lab.repository):
        for call in (
            lab.backup,
            lambda: merge.run(plans[0], Task()),
            lambda: delete.run(plans[1], Task()),
            lambda: policy.run(policy.plan(lab.repository, "disk", policy.Change(keep=1)), Task()),
            lambda: repair.run(lab.repository.path, Task()),
        ):
            with pytest.raises(RepositoryLocked, match="backing up /dev/sdx"):
                call()
    assert lab.files == before


def test_the_lock_says_nothing_any_more_when_it_is_free(repository):
    with repository.lock("something"):
        assert json.loads((repository.path / ".lock.json").read_text())["pid"] == os.getpid()
    assert {path.name for path in repository.path.iterdir()} == {"vdbackup.json", ".lock"}
    assert (repository.path / ".lock").read_bytes() == b""


# --------------------------------------------------------------------------- used by a VM


@pytest.fixture
def chain(tmp_path: Path) -> Lab:
    return five_points(Lab(tmp_path))


@once
def five_points(lab: Lab) -> None:
    """1 <- 2 <- 3 <- 4 <- 5"""
    for number in range(5):
        lab.poke(number << 16, noise(1 << 16, number))
        lab.backup()


@pytest.mark.parametrize("options", [(), ("-r",)])
def test_a_disk_that_qemu_has_open_is_seen_to_be(chain, options):
    overlay = chain.overlay(chain.set.points[2])
    used = [chain.layer(point) for point in chain.set.points[:3]]
    unused = [chain.layer(point) for point in chain.set.points[3:]]
    assert not any(used_by_vm(path) for path in used)
    with qemu.opened(overlay, *options):
        assert all(used_by_vm(path) for path in used)
        assert not any(used_by_vm(path) for path in unused)
    assert not any(used_by_vm(path) for path in used)


@pytest.mark.parametrize("running", [2, 3, 4])
def test_nothing_is_merged_that_a_virtual_machine_reads(chain, running):
    points = chain.set.points
    before = chain.files
    with qemu.opened(chain.overlay(points[running]), "-r"), pytest.raises(BackupError) as error:
        chain.merge(points[2])
    assert "virtual machine" in error.value.title
    assert error.value.advice
    assert chain.files == before
    qemu.assert_holds(chain.layer(points[4]), chain.moments[points[4].id])


def test_a_merge_behind_a_running_virtual_machine_is_done(chain):
    points = chain.set.points
    with qemu.opened(chain.overlay(points[1]), "-r"):
        chain.merge(points[3])
    chain.check_all()


def test_a_point_that_a_virtual_machine_runs_from_is_not_deleted(chain):
    point = chain.set.points[4]
    with qemu.opened(chain.overlay(point)), pytest.raises(BackupError, match="running"):
        chain.delete(point)
    chain.delete(point)
