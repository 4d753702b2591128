"""Whatever a power cut leaves of a repository, every point is right, or will be once it is opened.

Here a few states of each story and format, the same in every run; `python -m tests.crash` tries
10,000 of each format, and `python -m tests.crash.mutations` shows which of them notice what.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.choices import draw
from tests.crash.folders import shared_files_kept
from tests.crash.record import Choice
from tests.crash.recorder import Recorder
from tests.crash.states import States
from tests.crash.stories import STORIES, Story
from tests.crash.telling import Telling

STATES = 10
"""Of each story in each format: half a second on a quiet machine."""


@pytest.mark.parametrize(
    ("story", "disk_format"),
    [
        pytest.param(story, disk_format, id=f"{disk_format}-{story.name.replace(' ', '-')}")
        for story in STORIES
        for disk_format in story.formats
    ],
)
def test_after_a_power_cut_every_point_is_right(tmp_path: Path, story: Story, disk_format: str):
    telling = Telling(story, tmp_path / "told", disk_format)
    assert telling.try_states(STATES, sampled=STATES // 2) == []
    assert telling.figures.states == STATES


@pytest.mark.parametrize(
    "name", ["merge into the full", "merge the newest", "merge into the full by clones"]
)
def test_after_a_power_cut_while_a_merge_is_finished_every_point_is_right(
    tmp_path: Path, name: str, disk_format: str
):
    story = next(each for each in STORIES if each.name == name)
    telling = Telling(story, tmp_path / "told", disk_format)
    tellings = (telling.again(tmp_path / str(seed), seed) for seed in range(9))
    again = next(each for each in tellings if each is not None)
    assert again.try_states(STATES // 2) == []


# ------------------------------------------------------------------------------------- the model


class Drive:
    """A folder, what is done to it, and all that a power cut can leave of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "drive"
        self.path.mkdir()

    def states(self, act: Callable[[Path], None], cut: int | None = None) -> set[frozenset]:
        """Each as its files' names and contents."""
        recorder = Recorder(self.path, self._folder / "base")
        with recorder.recording():
            act(self.path)
        record = recorder.record()
        found = set()
        with States(record, self._folder / "cache") as states:
            for number in range(300):
                cut_at = len(record.changes) if cut is None else cut
                choice = draw(states, cut_at, random.Random(number))
                state = self._folder / f"state{number}"
                states.make(choice, state)
                found.add(frozenset((path.name, path.read_bytes()) for path in state.iterdir()))
        return found


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    return Drive(tmp_path)


def put(path: Path, data: bytes, *, synced: bool) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.pwrite(fd, data, 0)
    if synced:
        os.fsync(fd)
    os.close(fd)


def sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


OLD, NEW = b"o" * 1024, b"n" * 1024


def test_what_was_synced_is_there(drive):
    def act(folder: Path) -> None:
        put(folder / "a", NEW, synced=True)
        sync(folder)

    assert drive.states(act) == {frozenset({("a", NEW)})}


def test_a_write_that_was_not_synced_is_there_or_not_by_the_sector(drive):
    (drive.path / "a").write_bytes(OLD)
    found = drive.states(lambda folder: put(folder / "a", NEW, synced=False))
    assert found == {
        frozenset({("a", first + second)})
        for first in (OLD[:512], NEW[:512])
        for second in (OLD[512:], NEW[512:])
    }


def test_a_file_whose_length_is_not_there_is_short_and_one_whose_data_is_not_is_zeros(drive):
    found = {dict(state)["a"] for state in drive.states(lambda f: grown(f / "a"))}
    assert {b"", bytes(1024), NEW} <= found


def grown(path: Path) -> None:
    put(path, b"", synced=True)
    sync(path.parent)
    put(path, NEW, synced=False)


def test_lost_data_behind_the_end_may_be_what_was_on_the_storage_before(drive):
    found = {dict(state)["a"] for state in drive.states(lambda f: grown(f / "a"))}
    assert any(set(data) - set(NEW) - {0} for data in found)


def test_a_name_that_was_not_synced_is_there_or_not(drive):
    found = drive.states(lambda folder: put(folder / "a", NEW, synced=True))
    assert found == {frozenset(), frozenset({("a", NEW)})}


def test_a_rename_happens_as_a_whole_or_not_at_all(drive):
    (drive.path / "a").write_bytes(OLD)
    (drive.path / "b").write_bytes(NEW)
    found = drive.states(lambda folder: os.rename(folder / "b", folder / "a"))
    assert found == {frozenset({("a", OLD), ("b", NEW)}), frozenset({("a", NEW)})}


def test_a_file_that_was_renamed_without_an_fsync_may_be_empty(drive):
    def act(folder: Path) -> None:
        put(folder / "b", NEW, synced=False)
        os.rename(folder / "b", folder / "a")
        sync(folder)

    assert frozenset({("a", b"")}) in drive.states(act)


def test_an_unlink_that_was_not_synced_happened_or_not(drive):
    (drive.path / "a").write_bytes(OLD)
    found = drive.states(lambda folder: os.unlink(folder / "a"))
    assert found == {frozenset(), frozenset({("a", OLD)})}


def test_what_is_done_after_the_cut_never_happened(drive):
    (drive.path / "a").write_bytes(OLD)
    assert drive.states(lambda f: os.unlink(f / "a"), cut=0) == {frozenset({("a", OLD)})}


def test_a_change_that_goes_past_the_record_is_noticed(drive, tmp_path):
    recorder = Recorder(drive.path, tmp_path / "base")
    with recorder.recording():
        (drive.path / "a").write_bytes(NEW)  # through a file object
    with pytest.raises(AssertionError, match="past the record"):
        recorder.record()


def test_a_state_that_is_changed_leaves_the_others_as_they_are(drive, tmp_path):
    (drive.path / "a").write_bytes(OLD)
    recorder = Recorder(drive.path, tmp_path / "base")
    with States(recorder.record(), tmp_path / "cache") as states:
        for name in ("one", "two"):
            states.make(Choice(0, {}), tmp_path / name)
        with shared_files_kept():
            put(tmp_path / "one" / "a", NEW, synced=True)
            os.chmod(tmp_path / "one" / "a", 0o444)
    assert (tmp_path / "one" / "a").read_bytes() == NEW
    assert (tmp_path / "two" / "a").read_bytes() == OLD
    assert (tmp_path / "two" / "a").stat().st_mode & 0o777 == 0o644
