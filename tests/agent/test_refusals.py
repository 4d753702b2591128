"""Where a kernel, a system or a user cannot track a disk, that is said, and nothing is left."""

from __future__ import annotations

import errno
import os
import platform

import pytest

from tests.agent.followed import begin, changed, harvest, write
from tests.sources.loops import run
from tests.sources.ordinary_user import as_an_ordinary_user
from vdbackup.agent import bpf, pins, tracking
from vdbackup.agent.block_devices import Disk, Place
from vdbackup.agent.changes import BLOCK
from vdbackup.errors import NeedsRoot, TrackerBusy, TrackingNotSupported


def refuse(number: int):
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("wait_for_programs", errno.EINVAL, "This kernel cannot do it"),
        ("create_array", errno.EPERM, "This system does not allow it"),
        ("pin", errno.EROFS, "This system does not allow it"),
        ("load_program", errno.EINVAL, "This kernel cannot do it"),
        ("attach", errno.EACCES, "This system does not allow it"),
    ],
)
def test_what_the_kernel_refuses_is_said_and_leaves_nothing(disk, monkeypatch, name, number, words):
    with monkeypatch.context() as patch:
        patch.setattr(bpf, name, refuse(number))
        with pytest.raises(TrackingNotSupported, match=words):
            tracking.track(disk)
    assert list(pins.home().iterdir()) == []


def test_a_program_that_the_kernel_does_not_take_is_explained_in_the_log(as_root, caplog):
    with caplog.at_level("INFO"), pytest.raises(OSError, match="Invalid"):
        bpf.load_program(b"bad", bytes(8), 1)
    assert caplog.text


def test_a_processor_whose_calls_are_not_known_is_refused(disk, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(TrackingNotSupported):
        tracking.track(disk)


def test_a_kernel_without_bpf_file_systems_is_refused(disk, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:  # undone before the fixture's own is
        patch.setattr(pins, "BPFFS", tmp_path / "nothing")
        with pytest.raises(TrackingNotSupported):
            tracking.track(disk)
        assert tracking.tracked() == []
        assert tracking.find(disk) is None


def test_a_kernel_that_does_not_number_media_is_refused(disk, monkeypatch):
    monkeypatch.setattr(Disk, "medium", 0)
    with pytest.raises(TrackingNotSupported, match=r"5\.15"):
        tracking.track(disk)


def test_a_bpf_file_system_is_mounted_where_there_is_none(disk, monkeypatch, tmp_path, stack):
    (tmp_path / "unmounted").mkdir()
    with monkeypatch.context() as patch:  # undone before the fixture's own is
        patch.setattr(pins, "BPFFS", tmp_path / "unmounted")
        with tracking.track(disk):
            stack.callback(run, "umount", tmp_path / "unmounted")
        assert len(tracking.tracked()) == 1
    assert (tmp_path / "unmounted").stat().st_mode & 0o777 == 0o700


def test_only_root_may(disk):
    since = begin(disk)
    with as_an_ordinary_user():
        for each in (tracking.track, tracking.find, tracking.untrack):
            with pytest.raises(NeedsRoot):
                each(disk)
        with pytest.raises(NeedsRoot):
            tracking.tracked()
    assert changed(disk, since) == []


def test_whoever_holds_the_tracker_is_waited_for_a_moment_alone(disk, monkeypatch):
    since = begin(disk)
    monkeypatch.setattr(pins, "_PATIENCE", 0)
    write(disk, (0, 1))
    with pins.alone(pins.folder_of(Place.of(disk).disk)), pytest.raises(TrackerBusy):
        harvest(disk, since)
    assert changed(disk, since) == [(0, BLOCK)]


def test_what_lies_beside_trackers_is_left_alone(disk):
    begin(disk)
    (pins.home() / "somebody").mkdir()
    assert len(tracking.tracked()) == 1
    tracking.untrack(disk)
    assert [each.name for each in pins.home().iterdir()] == ["somebody"]


def test_a_check_that_a_signal_has_disturbed_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel says EAGAIN then (bpf_check), which is no word about the program."""
    calls: list[int] = []

    def disturbed_twice(command: int, _: bytes) -> int:
        calls.append(command)
        if len(calls) < 3:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return 7

    monkeypatch.setattr(bpf, "_bpf", disturbed_twice)
    assert bpf.load_program(b"mark", bytes(8), 1) == 7
