"""Bad input of a backup: each gets a sentence and what to do, and nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.sources.opened import open_path
from tests.sources.ordinary_user import as_an_ordinary_user, open_folder
from vdbackup.backup import capture
from vdbackup.disks.formats import FORMATS
from vdbackup.errors import (
    BackupError,
    Damaged,
    PointNotFound,
    RepositoryError,
    UsageError,
    VdbackupError,
)
from vdbackup.jobs import Job, Task, silent
from vdbackup.recovery import restore, verify
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.repository import Repository


def refused(call: Callable[[], object], match: str = "", kind=VdbackupError) -> VdbackupError:
    """As the window and the command line get it: through a job."""
    job = Job("Work", lambda *_: call())
    job.run(silent)
    error = job.error
    assert isinstance(error, kind), repr(error)
    assert match in error.title
    assert error.title
    assert error.advice
    assert "unexpectedly" not in error.title
    return error


def test_a_repository_that_is_the_source_is_refused(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(noise(BLOCK, 1))
    with open_path(image) as source:
        refused(lambda: capture.check_apart(source, image), "is the source itself", BackupError)
    refused(lambda: Repository.open_or_create(image), "is not a folder", RepositoryError)
    assert image.read_bytes() == noise(BLOCK, 1)


@pytest.mark.parametrize("linked", [False, True])
def test_a_source_inside_the_repository_is_refused(lab, linked):
    inside = lab.repository.path / "disk.img"
    inside.write_bytes(noise(BLOCK, 1))
    path = inside
    if linked:
        path = lab.folder / "link.img"
        path.symlink_to(inside)
    with open_path(path) as source:
        refused(lambda: capture.plan(lab.repository, source), "lies inside the repository")


def test_a_source_whose_parent_lies_inside_the_repository_is_refused(lab):
    """A layer of the repository as the source: the overlay of a point, in use."""
    point = lab.backup()
    with open_path(lab.overlay(point)) as source:
        refused(lambda: capture.plan(lab.repository, source), "lies inside the repository")


def test_a_set_of_another_source_is_not_written_to(lab):
    lab.backup()
    before = lab.files
    other = lab.folder / "other.img"
    other.write_bytes(noise(BLOCK, 1))
    with open_path(other) as source:
        refused(
            lambda: capture.plan(lab.repository, source, set_name="disk"),
            f"belongs to {lab.image}",
            BackupError,
        )
    assert lab.files == before


@pytest.mark.parametrize("unknown", ["raw", "vhd5", "", "VMDK"])
def test_a_format_that_does_not_exist_is_refused_before_anything_is_made(lab, unknown):
    before = lab.files
    with open_path(lab.image) as source:
        refused(
            lambda: capture.plan(lab.repository, source, disk_format=unknown or "?"),
            "no disk format",
            UsageError,
        )
    assert lab.files == before


def test_another_format_than_the_sets_is_refused(lab):
    lab.backup()
    other = next(name for name in FORMATS if name != lab.disk_format)
    with open_path(lab.image) as source:
        refused(
            lambda: capture.plan(lab.repository, source, disk_format=other),
            f"kept in {lab.disk_format}",
        )


@pytest.mark.parametrize("kind", ["", "everything", "FULL"])
def test_a_kind_that_does_not_exist_is_refused(lab, kind):
    lab.backup()
    with open_path(lab.image) as source:
        refused(lambda: capture.plan(lab.repository, source, kind=kind), "no kind", UsageError)


@pytest.mark.parametrize("name", ["../outside", "/tmp/x", "a/b", "..", "", " "])
def test_a_hostile_name_of_a_set_is_refused_before_anything_is_made(lab, name):
    before = sorted(lab.folder.rglob("*"))
    with open_path(lab.image) as source:
        refused(lambda: capture.plan(lab.repository, source, set_name=name), "cannot be the name")
    assert sorted(lab.folder.rglob("*")) == before


def test_two_first_backups_that_were_planned_together_do_not_make_one_set_twice(lab):
    with open_path(lab.image) as source:
        plans = [capture.plan(lab.repository, source, set_name="disk") for _ in range(2)]
        capture.run(plans[0], Task())
        before = lab.files
        refused(lambda: capture.run(plans[1], Task()), "already", RepositoryError)
    assert lab.files == before


def test_a_layer_of_the_chain_that_is_missing_is_named(lab):
    points = [lab.backup(), lab.backup(), lab.backup()]
    lab.layer(points[1]).unlink()
    error = refused(lambda: lab.set.open_chain(points[2]), lab.file("0002-incremental"), Damaged)
    assert "which point 3 needs" in error.title
    assert "missing" in error.title
    lab.check_ours(points[0])


@pytest.mark.parametrize("change", [-1, 1, -BLOCK])
def test_a_layer_that_is_not_as_long_as_it_was_is_refused(lab, change):
    point = lab.backup()
    lab.layer(point).chmod(0o600)
    os.truncate(lab.layer(point), lab.layer(point).stat().st_size + change)
    refused(lambda: lab.set.open_chain(point), "cut off or altered", Damaged)
    assert lab.file("0001-full") in lab.capture().notes[0]


def test_a_layer_whose_link_leads_elsewhere_than_its_manifest_is_refused(lab):
    full = lab.backup()
    lab.poke(0, b"changed")
    lab.backup()
    other_full = lab.backup("full")
    layer = lab.layer(lab.set.points[1])
    disk = lab.open(lab.layer(other_full))
    wrong = disk.info
    disk.close()
    layer.chmod(0o600)
    child = lab.open(layer, writable=True)
    assert child.info.parent is not None
    child.relink(type(child.info.parent)(wrong.disk_id, wrong.content_id, other_full.disk))
    child.close()
    refused(lambda: lab.set.open_chain(lab.set.points[1]), "not those that the manifests name")
    lab.check_ours(full)


def test_what_damaged_digests_say_nothing_sure_about_is_kept_again_and_said(lab):
    point = lab.backup()
    path = lab.set.folder / point.digests
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert "0001-full.digests is damaged" in lab.capture().warnings[0]
    assert lab.set.points[1].parent == point.id
    lab.check_ours(lab.set.points[1])


def test_a_point_that_does_not_exist_is_not_found(lab):
    lab.backup()
    refused(lambda: lab.repository.find("2"), "matches no", PointNotFound)


# --------------------------------------------------------------------------- storage


@pytest.fixture
def public_folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def test_a_repository_that_may_not_be_written_is_refused(public_folder):
    lab = Lab(public_folder)
    lab.backup()
    for path in (lab.repository.path, lab.set.folder):
        path.chmod(0o555)
    for path in [lab.image, *lab.repository.path.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o444)
    before = lab.files
    with as_an_ordinary_user():
        error = refused(lab.backup)
        assert "may not" in error.title
        refused(lambda: Repository.create(lab.repository.path / "below"), "may not")
    assert lab.files == before
    lab.repository.path.chmod(0o700)
    lab.set.folder.chmod(0o700)


def test_a_repository_that_may_not_be_read_is_refused(public_folder):
    lab = Lab(public_folder)
    lab.backup()
    lab.repository.path.chmod(0)
    with as_an_ordinary_user():
        refused(lambda: Repository.open(lab.repository.path), "may not")
        refused(lambda: Repository.open_or_create(lab.repository.path), "may not")
    lab.repository.path.chmod(0o700)


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A repository on storage that is mounted read-only; for an ordinary user one that says so."""
    with ExitStack() as stack:
        folder = tmp_path / "storage"
        folder.mkdir()
        if os.geteuid() == 0:
            mount = ["mount", "-t", "tmpfs", "storage", str(folder)]
            subprocess.run(mount, check=True)
            stack.callback(subprocess.run, ["umount", str(folder)], check=True)
        lab = Lab(tmp_path, repository=folder / "repository")
        lab.backup()
        if os.geteuid() == 0:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        else:
            original = os.open

            def says_so(path, flags: int, *rest: object, **named: object) -> int:
                if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
                return original(path, flags, *rest, **named)

            monkeypatch.setattr(os, "open", says_so)
        yield lab
        monkeypatch.undo()


def test_read_only_storage_is_said_to_be_and_its_points_can_be_read(read_only):
    point = read_only.set.points[0]
    read_only.check_ours(point)
    error = refused(read_only.backup, "read-only")
    assert "writable" in error.advice
    refused(lambda: read_only.delete(point), "read-only")


# --------------------------------------------------------------------------- damage


def lose_a_grain(layer: Path) -> None:
    """The entry of block 2 in both grain tables becomes 0: as if the block had never been there."""
    layer.chmod(0o600)
    data = bytearray(layer.read_bytes())
    for directory in (48, 56):
        sector = int.from_bytes(data[directory : directory + 8], "little")
        table = int.from_bytes(data[sector * 512 : sector * 512 + 4], "little") * 512
        data[table + 8 : table + 12] = bytes(4)
    layer.write_bytes(data)
    layer.chmod(0o444)


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_block_that_a_layer_has_lost_is_noticed_by_whatever_reads_it(lab):
    point = lab.backup()
    lab.poke(0, b"changed")
    child = lab.backup()
    lose_a_grain(lab.layer(point))
    target = lab.folder / "restored.img"
    plan = restore.plan(restore.RestoreRequest(lab.repository, "disk", child.id, target))
    refused(lambda: restore.run(plan, Task()), "0001-full.vmdk", Damaged)
    assert not target.exists()
    verdicts = verify.run(verify.plan(lab.repository, "disk"), Task())
    assert [verdict.ok for verdict in verdicts] == [False, False]


@pytest.mark.parametrize("disk_format", ["vmdk"], indirect=True)
def test_a_block_that_a_child_has_lost_is_noticed_before_it_is_merged(lab):
    lab.backup()
    lab.poke(2 * BLOCK, b"changed")
    child = lab.backup()
    lose_a_grain(lab.layer(child))
    before = lab.files
    refused(lambda: lab.merge(child), "not as it was captured", Damaged)
    assert lab.files == before
