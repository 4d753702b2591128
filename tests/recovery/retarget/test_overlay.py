"""Overlays made anew: they hold what a scratch disk held, in any format, and are whole or the old.

The scratch disk is written by QEMU's own program; who reads the overlay is not us.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.backup.lab import Lab, sha256
from tests.backup.once import once
from tests.noise import noise
from tests.oracles import qemu as qemu_io
from tests.oracles import readers
from vdbackup.errors import Cancelled
from vdbackup.jobs import CancelToken, Task
from vdbackup.qemu import concatenation, qemu
from vdbackup.recovery.retarget.overlay import publish_overlay
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    return two_points(Lab(tmp_path, disk_format=disk_format))


@once
def two_points(lab: Lab) -> None:
    """Two points; the second holds a part of what the first held."""
    lab.poke(0, noise(8 * BLOCK, 1))
    lab.backup()
    lab.poke(3 * BLOCK, noise(BLOCK, 2))
    lab.backup()


def scratch(lab: Lab, point: RecoveryPoint, *commands: str) -> Path:
    """A disk above the point's layers as a virtual machine would have written it."""
    folder = lab.folder / "scratch"
    folder.mkdir()
    with lab.set.open_chain(point) as chain:
        layers = [layer.path for layer in chain.layers]
        if lab.disk_format in qemu.DRIVERS:
            backing = qemu.Backing.of_chain(layers, lab.disk_format)
        else:
            backing = qemu.Backing.of_map(concatenation.build(folder, chain.map, layers))
        qemu.create_session_disk(folder / "session.qcow2", backing, chain.size)
    qemu_io.io(folder / "session.qcow2", *commands, disk_format="qcow2")
    return folder / "session.qcow2"


def written(lab: Lab, point: RecoveryPoint, *writes: tuple[int, bytes]) -> Path:
    """A raw copy of the point's moment with those bytes in it."""
    copy = lab.folder / "wanted.raw"
    data = bytearray(lab.moments[point.id].read_bytes())
    for offset, content in writes:
        data[offset : offset + len(content)] = content
    copy.write_bytes(data)
    return copy


def test_overlay_holds_what_the_scratch_disk_held_and_no_more(lab: Lab) -> None:
    point = lab.set.points[-1]
    layers = [sha256(lab.layer(each)) for each in lab.set.points]
    at, zeros, patch = 5 * BLOCK + 1000, 2 * BLOCK, 9 * BLOCK + 17
    disk = scratch(lab, point, f"write -P 7 {at - at % 512} 1024", f"write -z {zeros} {BLOCK}")
    publish_overlay(lab.set, point, disk, {patch: b"patched"}, Task())
    wanted = written(
        lab, point, (at - at % 512, b"\7" * 1024), (zeros, bytes(BLOCK)), (patch, b"patched")
    )
    readers.assert_holds(lab.overlay(point), wanted, lab.disk_format)
    assert [sha256(lab.layer(each)) for each in lab.set.points] == layers
    own = lab.open(lab.overlay(point))
    held = own.block_map().own_ranges()
    own.close()
    assert held[:, 1].sum() == 3 * BLOCK  # one for each place


def test_scratch_disk_that_changed_nothing_makes_an_empty_overlay(lab: Lab) -> None:
    point = lab.set.points[-1]
    same = lab.moments[point.id].read_bytes()[: 2 * BLOCK]
    block = lab.folder / "same"
    block.write_bytes(same)
    disk = scratch(lab, point, f"write -s {block} 0 {2 * BLOCK}")
    publish_overlay(lab.set, point, disk, {}, Task())
    own = lab.open(lab.overlay(point))
    assert len(own.block_map().own_ranges()) == 0
    own.close()
    lab.check_all()


def test_merge_takes_the_changed_overlay_along(lab: Lab) -> None:
    point = lab.set.points[-1]
    publish_overlay(lab.set, point, None, {BLOCK: b"retargeted"}, Task())
    wanted = written(lab, point, (BLOCK, b"retargeted"))
    merged = lab.merge(point)
    assert merged.overlay == point.overlay
    readers.assert_holds(lab.overlay(merged), wanted, lab.disk_format)
    lab.check_files()


def test_retargeting_again_begins_with_an_empty_overlay(lab: Lab) -> None:
    point = lab.set.points[-1]
    publish_overlay(lab.set, point, None, {0: b"once"}, Task())
    publish_overlay(lab.set, point, None, {BLOCK: b"twice"}, Task())
    wanted = written(lab, point, (BLOCK, b"twice"))
    readers.assert_holds(lab.overlay(point), wanted, lab.disk_format)


def test_failure_and_cancel_leave_the_old_overlay(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = lab.set.points[-1]
    before = lab.files

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    cancelled = CancelToken()
    cancelled.cancel()
    with pytest.raises(Cancelled):
        publish_overlay(lab.set, point, None, {0: b"x"}, Task(cancel=cancelled))
    assert lab.files == before
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        publish_overlay(lab.set, point, None, {0: b"x"}, Task())
    monkeypatch.undo()
    assert lab.files == before
