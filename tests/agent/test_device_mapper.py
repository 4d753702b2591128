"""Volumes of device-mapper: which can be tracked, and when a tracker of one is believed no more."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from tests.agent.followed import begin, doubt
from vdbackup.agent import device_mapper
from vdbackup.agent.block_devices import Disk
from vdbackup.agent.device_mapper import Target, digest

LINEAR = Target(0, 409_600, "linear", "253:16 2048")
KEY = "0123456789abcdef" * 4


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A device of device-mapper, as sysfs shows it."""
    for name, value in {"dm/name": "vg-root", "queue/iostats": "0", "queue/zoned": "none"}.items():
        file = tmp_path / "254:0" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    monkeypatch.setattr("vdbackup.agent.block_devices.SYS_BLOCK", tmp_path)
    return Disk(254, 0)


def works_by(monkeypatch: pytest.MonkeyPatch, *targets: Target) -> None:
    monkeypatch.setattr(device_mapper, "table", lambda _: list(targets))


def test_a_volume_that_only_its_own_requests_change_can_be_tracked(volume, monkeypatch):
    crypt = Target(409_600, 8, "crypt", f"aes-xts-plain64 {KEY} 0 253:32 32768")
    works_by(monkeypatch, LINEAR, crypt)
    assert volume.hindrance() == ""
    assert volume.node == Path("/dev/mapper/vg-root")


@pytest.mark.parametrize("kind", ["mirror", "raid", "cache", "snapshot-merge", "multipath"])
def test_a_volume_that_is_changed_from_below_is_refused_by_its_kind(volume, monkeypatch, kind):
    works_by(monkeypatch, LINEAR, Target(409_600, 8, kind, ""))
    assert volume.hindrance() == f"what is below it may change it ({kind} of device-mapper)"


def test_a_volume_that_nobody_can_say_anything_of_is_refused(volume, monkeypatch):
    def gone(_: int) -> list[Target]:
        raise OSError(errno.ENXIO, "No such device or address")

    monkeypatch.setattr(device_mapper, "table", gone)
    assert "cannot be told (No such device or address)" in volume.hindrance()


def test_another_table_is_another_mapping_and_another_key_is_not(volume, monkeypatch):
    works_by(monkeypatch, LINEAR)
    before = volume.mapping
    works_by(monkeypatch, Target(0, 409_600, "linear", "253:16 4096"))
    assert volume.mapping != before
    by_key = [Target(0, 8, "crypt", f"aes-xts-plain64 {key} 0 253:32 32768") for key in (KEY, "-")]
    assert digest(by_key[:1]) == digest(by_key[1:])
    assert Disk(8, 0).mapping == ""


def test_the_kernels_answer_is_read_target_by_target():
    """As dm-ioctl.h has it: where the next one begins is counted from the first."""
    answer = bytearray(512)
    struct.pack_into("=QQiI16s", answer, 0, 0, 8, 0, 72, b"linear")
    answer[40:54] = b"253:16 2048\0xy"
    struct.pack_into("=QQiI16s", answer, 72, 8, 16, 0, 128, b"crypt")
    answer[112:120] = b"a b c d\0"
    found = list(device_mapper._targets(answer, 2))
    assert found == [Target(0, 8, "linear", "253:16 2048"), Target(8, 16, "crypt", "a b c d")]


def test_a_tracker_of_a_volume_with_another_table_is_believed_no_more(disk, monkeypatch):
    monkeypatch.setattr(Disk, "mapping", "one")
    since = begin(disk)
    monkeypatch.setattr(Disk, "mapping", "another")
    assert doubt(disk, since) == "device-mapper has made it of something else meanwhile"
