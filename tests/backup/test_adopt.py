"""Adopt: other programs' chains become sets, and go on as if they had always been ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.lab import fingerprint
from tests.backup.sharing import shared_bytes, sharing_storage
from tests.noise import noise
from tests.oracles import qemu, readers
from tests.sources.opened import open_path
from vdbackup.backup import adopt, capture, merge
from vdbackup.errors import BackupError, ChainTooLong, ParentError, Remedy, SetExists
from vdbackup.jobs import Task
from vdbackup.recovery import verify
from vdbackup.repository import long_chains
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import PointType
from vdbackup.repository.repository import Repository

MIB = 1 << 20
SIZE = 8 * MIB + 512
LINKED = ("vmdk", "qcow2")
"""The formats in which qemu-img makes children."""


class Chain:
    """base <- c1 <- c2 as qemu-img and qemu-io make them, and the bytes of each state."""

    def __init__(self, folder: Path, disk_format: str, *options: str) -> None:
        self.format = disk_format
        self.disks: list[Path] = []
        self.states: list[Path] = []
        raw = bytearray(SIZE)
        folder.mkdir(exist_ok=True)
        writes = [
            [(0, b"\1" * (3 * MIB)), (SIZE - 512, b"\2" * 512)],
            [(MIB - 4096, b"\3" * 8192), (5 * MIB + 512, b"\4" * 512)],  # in part of a block
            [(2 * MIB, bytes(MIB)), (100 << 10, b"\5" * 1024)],
        ]
        for number, changes in enumerate(writes):
            disk = folder / f"{number}.{disk_format}"
            backing = ["-b", self.disks[-1].name, "-F", disk_format] if self.disks else []
            create = ["qemu-img", "create", "-q", "-f", disk_format, *options, *backing]
            subprocess.run([*create, disk.name, str(SIZE)], cwd=folder, check=True)
            for offset, data in changes:
                write = f"write -P {data[0]} {offset} {len(data)}"
                qemu.io(disk, write, disk_format=disk_format)
                raw[offset : offset + len(data)] = data
            self.disks.append(disk)
            self.states.append(folder / f"{number}.raw")
            self.states[-1].write_bytes(raw)

    @property
    def tip(self) -> Path:
        return self.disks[-1]


@pytest.fixture(params=LINKED)
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    return Chain(tmp_path / "foreign", request.param)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repository")


def adopted(repository: Repository, tip: Path, **wanted: str) -> BackupSet:
    with open_path(tip) as source:
        plan = adopt.plan(repository, source, **wanted)
        return adopt.run(plan, Task())


def check(backup_set: BackupSet, states: list[Path]) -> None:
    """Every point, its layer and its overlay, is its state, for everybody."""
    for point, state in zip(backup_set.points, states, strict=True):
        for disk in (backup_set.disk_path(point), backup_set.overlay_path(point)):
            readers.assert_holds(disk, state, backup_set.settings.format)


def check_verified(repository: Repository, backup_set: BackupSet) -> None:
    verdicts = verify.run(verify.plan(repository, backup_set.name), Task())
    assert [verdict.findings for verdict in verdicts] == [()] * len(backup_set.points)


def test_each_disk_of_an_adopted_chain_becomes_a_point(chain, repository):
    backup_set = adopted(repository, chain.tip)
    kinds = [PointType.FULL, PointType.INCREMENTAL, PointType.INCREMENTAL]
    assert [point.type for point in backup_set.points] == kinds
    assert backup_set.settings.format == chain.format
    check(backup_set, chain.states)
    check_verified(repository, backup_set)


def test_a_chain_too_long_for_points_is_refused_before_anything_is_copied(
    chain, repository, monkeypatch
):
    monkeypatch.setattr(long_chains, "MOST_LAYERS", 2)
    with pytest.raises(ChainTooLong, match="reads through 3 layers"):
        adopted(repository, chain.tip)
    assert repository.names() == []


def test_an_adopted_chain_is_only_read(chain, repository):
    before = fingerprint(chain.tip.parent)
    adopted(repository, chain.tip)
    assert fingerprint(chain.tip.parent) == before


def test_an_adopted_point_has_the_moment_at_which_its_disk_was_written(chain, repository):
    backup_set = adopted(repository, chain.tip)
    for point, disk in zip(backup_set.points, chain.disks, strict=True):
        modified = round(disk.stat().st_mtime, 3)
        assert round(backup_set.disk_path(point).stat().st_mtime, 3) == pytest.approx(modified)


def test_adopted_points_get_identities_of_their_own(chain, repository, tmp_path):
    first = adopted(repository, chain.tip)
    second = adopted(Repository.create(tmp_path / "second"), chain.tip)
    ids = {point.id for backup_set in (first, second) for point in backup_set.points}
    assert len(ids) == 6


def test_backups_and_merges_go_on_from_an_adopted_chain(chain, repository):
    backup_set = adopted(repository, chain.tip)
    qemu.io(chain.tip, "write -P 9 6M 100k", disk_format=chain.format)
    now = chain.tip.with_name("now.raw")
    data = bytearray(chain.states[-1].read_bytes())
    data[6 * MIB : 6 * MIB + (100 << 10)] = b"\x09" * (100 << 10)
    now.write_bytes(data)
    with open_path(chain.tip) as source:
        plan = capture.plan(repository, source)
        assert (plan.set_name, plan.kind) == (backup_set.name, PointType.INCREMENTAL)
        capture.run(plan, Task())
    backup_set = repository.set()
    check(backup_set, [*chain.states, now])
    for _ in range(3):
        backup_set = repository.set()
        plan = merge.plan(repository, backup_set.name, backup_set.points[1].id)
        merge.run(plan, Task())
    check(repository.set(), [now])
    check_verified(repository, repository.set())


@pytest.mark.each_format
def test_a_chain_is_adopted_into_any_other_format(chain, repository, disk_format):
    backup_set = adopted(repository, chain.tip, disk_format=disk_format)
    assert backup_set.settings.format == disk_format
    check(backup_set, chain.states)


@pytest.mark.parametrize("options", [("-o", "cluster_size=4k"), ("-o", "compat=0.10")])
def test_a_layout_that_is_only_read_is_written_anew(tmp_path, repository, options):
    chain = Chain(tmp_path / "foreign", "qcow2", *options)
    backup_set = adopted(repository, chain.tip)
    check(backup_set, chain.states)
    check_verified(repository, backup_set)


def test_a_child_of_a_raw_disk_becomes_a_chain_in_one_format(tmp_path, repository):
    (tmp_path / "base.raw").write_bytes(noise(MIB, 1))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "c.qcow2"]
    subprocess.run(create, cwd=tmp_path, check=True)
    qemu.io(tmp_path / "c.qcow2", "write -P 7 100k 512", disk_format="qcow2")
    state = tmp_path / "state.raw"
    state.write_bytes(noise(MIB, 1)[: 100 << 10] + b"\7" * 512 + noise(MIB, 1)[(100 << 10) + 512 :])
    check(adopted(repository, tmp_path / "c.qcow2"), [tmp_path / "base.raw", state])


def test_a_disk_that_was_made_larger_begins_a_chain_of_its_own(tmp_path, repository):
    chain = Chain(tmp_path / "foreign", "qcow2")
    subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", chain.tip, "+1M"], check=True)
    with chain.states[-1].open("ab") as file:
        file.truncate(SIZE + MIB)
    backup_set = adopted(repository, chain.tip)
    assert [point.parent is None for point in backup_set.points] == [True, False, True]
    check(backup_set, chain.states)


def test_a_parent_in_another_folder_is_followed_only_where_the_user_says_so(tmp_path):
    chain = Chain(tmp_path / "foreign", "qcow2")
    (tmp_path / "elsewhere").mkdir()
    moved = chain.disks[0].rename(tmp_path / "elsewhere" / chain.disks[0].name)
    rebase = ["qemu-img", "rebase", "-q", "-u", "-f", chain.format, "-F", chain.format]
    subprocess.run([*rebase, "-b", moved, chain.disks[1]], check=True)
    repository = Repository.create(tmp_path / "repository")
    with pytest.raises(ParentError, match="outside its own folder") as refusal:
        open_path(chain.tip)
    assert refusal.value.remedy is Remedy.NAME_PARENTS
    with open_path(chain.tip, [tmp_path / "elsewhere"]) as source:
        backup_set = adopt.run(adopt.plan(repository, source), Task())
    check(backup_set, chain.states)


def test_a_disk_that_has_a_set_is_not_adopted_again(chain, repository):
    adopted(repository, chain.tip)
    before = fingerprint(repository.path)
    with pytest.raises(BackupError, match="has been backed up or adopted") as refusal:
        adopted(repository, chain.tip)
    assert refusal.value.advice
    assert fingerprint(repository.path) == before


def test_what_is_left_of_another_set_in_the_making_is_shown_and_goes(chain, repository):
    left = repository.path / "other.partial"
    left.mkdir()
    (left / "0001-full.vmdk.partial").write_bytes(b"the rest of it")
    (left / "set.json").write_text("{}")
    assert repository.in_the_making() == ["other.partial"]
    with open_path(chain.tip) as source:
        plan = adopt.plan(repository, source)
        assert plan.replaces == ("other.partial",)
        assert "making was cut off goes: other.partial." in plan.summary
        adopt.run(plan, Task())
    assert not left.exists()


@pytest.mark.parametrize("theirs", ["notes.txt", "quarantine"])
def test_a_folder_that_only_looks_like_a_set_in_the_making_stays(chain, repository, theirs):
    left = repository.path / "other.partial"
    left.mkdir()
    (left / theirs).write_text("somebody's own")
    assert repository.in_the_making() == []
    with pytest.raises(SetExists, match="not all in it is of this program"):
        adopted(repository, chain.tip, set_name="other")
    adopted(repository, chain.tip)
    assert (left / theirs).exists()


# --------------------------------------------------------------------------- shared extents


@pytest.fixture(scope="module")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with sharing_storage("btrfs", tmp_path_factory.mktemp("btrfs")) as folder:
        yield folder


@pytest.mark.parametrize("disk_format", LINKED)
def test_where_the_file_system_shares_extents_nothing_is_copied(btrfs, disk_format):
    folder = btrfs / disk_format
    chain = Chain(folder, disk_format)
    repository = Repository.create(btrfs / f"repository-{disk_format}")
    backup_set = adopted(repository, chain.tip)
    full = backup_set.disk_path(backup_set.points[0])
    assert os.geteuid() or shared_bytes(full) > 3 * MIB - (256 << 10)
    check(backup_set, chain.states)
    check_verified(repository, backup_set)
