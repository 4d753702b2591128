"""Versions, search and differences say what the kernel shows of each moment of a disk."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

import pytest

from tests.recovery.history.story import MAKERS, SET, Story, told
from vdbackup.errors import Cancelled, NotInPoint
from vdbackup.jobs import CancelToken, Task
from vdbackup.recovery.history.differences import What, differences
from vdbackup.recovery.history.find import Pattern, Search, find
from vdbackup.recovery.history.owners import sizes
from vdbackup.recovery.history.versions import versions

pytestmark = pytest.mark.usefixtures("as_root")
NAMES = ("one", "two", "three", "caf\udce9", "large", "link", "first", "letters", "post")


@pytest.fixture(scope="module", params=MAKERS)
def story(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, as_root: None
) -> Story:
    """Eight points of a disk."""
    kind = str(request.param)
    return told(tmp_path_factory.mktemp(kind), kind)


def searched(story: Story, text: str, index: Path | None, **how: bool) -> Search:
    return find(story.repository, SET, Pattern(text, **how), index, Task())


def test_the_states_of_a_file_are_those_that_the_kernel_showed(story: Story):
    for path in sorted({path for each in story.shown.values() for path in each}):
        found = versions(story.repository, SET, path, Task())
        wanted = story.states(path)
        numbers = [[point.sequence for point in each.points] for each in found.versions]
        is_folder = any(state and state[3] == "" for _, state in wanted)
        if is_folder:  # whose time is that of what is in it
            assert [n for row in numbers for n in row] == [n for row, _ in wanted for n in row]
            continue
        assert numbers == [row for row, _ in wanted], path
        for version, (_, state) in zip(found.versions, wanted, strict=True):
            assert (version.stat is None) == (state is None)
            if version.stat is not None and state is not None:
                assert version.stat.size == state[0]
                assert version.stat.modified == state[1]
        assert found.warnings == ()


def test_other_bytes_of_the_same_length_and_time_are_another_state(story: Story):
    found = versions(story.repository, SET, "/letters/two", Task())
    numbers = [[point.sequence for point in each.points] for each in found.versions]
    assert numbers == [[1, 2, 3], [4], [5, 6, 7, 8]]


def test_points_in_which_nothing_changed_are_not_read_again(tmp_path: Path):
    story = told(tmp_path, "ext4")
    before = len(story.points)
    for _ in range(3):
        story.point()
    found = versions(story.repository, SET, "/large", Task())
    assert found.read <= before
    assert searched(story, "*", None).read <= before


@pytest.mark.parametrize("text", ["one", "t*", "*", "L*", "caf?", "*/letters/*"])
@pytest.mark.parametrize("any_case", [False, True])
def test_a_search_finds_what_the_kernel_showed(
    text: str, any_case: bool, story: Story, tmp_path: Path
):
    found = searched(story, text, tmp_path / "names", any_case=any_case)
    ours = {(each.path, point.sequence) for each in found.found for point in each.points}

    def matches(path: str) -> bool:
        subject = path if "/" in text else path.rpartition("/")[2]
        pattern = text.lower() if any_case else text
        return fnmatch.fnmatchcase(subject.lower() if any_case else subject, pattern)

    theirs = {
        (path, point.sequence)
        for point in story.points
        for path in story.shown[point.id]
        if matches(path)
    }
    assert {each for each in ours if each[0] not in ("/", "/lost+found")} == theirs


def test_a_search_reads_each_point_once_and_new_ones_alone(story: Story, tmp_path: Path):
    index = tmp_path / "names"
    first = searched(story, "*", index)
    assert 0 < first.read <= len(story.points)
    again = searched(story, "*", index)
    assert (again.read, again.found) == (0, first.found)
    assert searched(story, "*", None).found == first.found


@pytest.mark.parametrize("damage", ["flipped", "cut off", "empty", "a folder", "another version"])
def test_a_damaged_index_is_made_anew(damage: str, story: Story, tmp_path: Path):
    index = tmp_path / "names"
    wanted = searched(story, "*", index).found
    data = bytearray(index.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    elif damage == "cut off":
        del data[-1]
    elif damage == "empty":
        data.clear()
    elif damage == "another version":
        data[8] += 1
    index.write_bytes(data)
    if damage == "a folder":
        index.unlink()
        index.mkdir()
    found = searched(story, "*", index)
    assert (found.found, found.read > 0) == (wanted, True)
    if damage != "a folder":
        assert searched(story, "*", index).read == 0


def test_a_search_that_is_cancelled_keeps_what_it_read(story: Story, tmp_path: Path):
    index, cancel = tmp_path / "names", CancelToken()

    def stop(progress: object) -> None:
        if getattr(progress, "done", 0) >= 3:
            cancel.cancel()

    with pytest.raises(Cancelled):
        find(story.repository, SET, Pattern("*"), index, Task(stop, cancel))
    rest = searched(story, "*", index)
    assert rest.read < searched(story, "*", None).read
    assert rest.found == searched(story, "*", None).found


def pairs(story: Story) -> list[tuple[int, int]]:
    count = len(story.points)
    return [(one, one + 1) for one in range(count - 1)] + [(0, count - 1), (count - 1, 2)]


def test_differences_are_those_that_the_kernel_showed(story: Story):
    for one, other in pairs(story):
        ids = (story.points[one].id, story.points[other].id)
        found = differences(story.repository, SET, ids, "/", Task())
        assert found.warnings == ()
        before, after = story.shown[ids[0]], story.shown[ids[1]]
        ours = {each.path: set(each.what) for each in found.files}
        ours.pop("/", None)
        ours.pop("/lost+found", None)
        theirs = {}
        for path in before.keys() | after.keys():
            what = kernels(before.get(path), after.get(path))
            if what:
                theirs[path] = what
        assert ours == theirs, (one, other)


def kernels(old, new) -> set[str]:
    """What the kernel showed otherwise."""
    if old is None or new is None:
        return {What.NEW if old is None else What.GONE}
    if old.mode >> 12 != new.mode >> 12:
        return {What.KIND}
    is_link, is_folder = old.mode >> 12 == 0o12, old.mode >> 12 == 0o4
    content = What.TARGET if is_link else What.CONTENT
    checks = {
        content: old.content != new.content or (not is_link and old.size != new.size),
        What.TIME: old.modified != new.modified and not is_folder,
        What.PERMISSIONS: old.mode != new.mode,
        What.OWNER: old.owner != new.owner,
    }
    return {what for what, holds in checks.items() if holds}


def test_differences_of_a_folder_are_those_in_it(story: Story):
    ids = (story.points[0].id, story.points[-1].id)
    every = differences(story.repository, SET, ids, "/", Task())
    some = differences(story.repository, SET, ids, "/letters", Task())
    assert some.files == tuple(
        each for each in every.files if (each.path + "/").startswith("/letters/")
    )
    with pytest.raises(NotInPoint):
        differences(story.repository, SET, ids, "/nowhere", Task())


def test_a_points_size_is_that_of_the_files_that_changed(story: Story):
    last = story.points[-1]
    found = sizes(story.repository, SET, last.id, "/", Task())
    shares = {each.path: each.bytes for each in found.shares}
    assert max(shares, key=lambda path: shares[path]) == "/large"
    assert shares["/large"] == 2 << 20
    assert sum(each for path, each in shares.items() if path.count("/") == 1) + sum(
        each for _, each in found.others
    ) == pytest.approx(found.changed, rel=0.01)
    assert found.changed <= found.stored


def test_a_full_point_is_as_large_as_its_files(story: Story):
    first = story.points[0]
    found = sizes(story.repository, SET, first.id, "/", Task())
    shares = {each.path: each.bytes for each in found.shares}
    assert shares["/large"] == 2 << 20
    assert shares["/letters"] + shares["/first"] >= 110_000  # "one" is counted by its first name
    inside = sizes(story.repository, SET, first.id, "/letters", Task())
    assert {each.path for each in inside.shares} == {
        path for path in shares if path.startswith("/letters/")
    }


def test_a_merge_leaves_the_versions_and_the_index_as_they_are(tmp_path: Path):
    story = told(tmp_path, "ext4")
    index = tmp_path / "names"
    before = searched(story, "*", index)
    story.merge(story.points[2])
    found = searched(story, "*", index)
    assert found.read == 0
    assert len(found.found) <= len(before.found)
    assert found.found == searched(story, "*", None).found
    numbers = [
        [point.sequence for point in each.points]
        for each in versions(story.repository, SET, "/letters/one", Task()).versions
    ]
    assert numbers == [row for row, _ in story.states("/letters/one")]
    with story.changing() as top:
        (top / "new").write_bytes(os.urandom(100))
    story.point()
    assert searched(story, "new", index).read == 1


def test_a_point_that_cannot_be_read_is_said_and_looked_through_once_it_can(tmp_path: Path):
    story = told(tmp_path, "ext4")
    wanted = searched(story, "*", None).found
    index = tmp_path / "names"
    backup_set = story.repository.set(SET)
    layer = backup_set.disk_path(story.points[-1])
    layer.rename(tmp_path / "elsewhere")
    found = searched(story, "*", index)
    assert len(found.warnings) == 1
    assert "Point 8 cannot be read" in found.warnings[0]
    assert max(each.points[-1].sequence for each in found.found) == 7
    (tmp_path / "elsewhere").rename(layer)
    again = searched(story, "*", index)
    assert (again.read, again.found, again.warnings) == (1, wanted, ())
    first = story.points[0]
    middle = story.repository.set(SET).disk_path(story.points[4])
    os.rename(middle, tmp_path / "elsewhere")
    other = searched(story, "*", tmp_path / "other")
    assert other.warnings
    os.rename(tmp_path / "elsewhere", middle)
    assert searched(story, "*", tmp_path / "other").found == wanted
    assert versions(story.repository, SET, "/large", Task()).versions[0].points[0] == first
