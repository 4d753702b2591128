"""What is noted of names is believed of what was read for it alone, and of nothing else."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from tests.recovery.history.story import SET, Story, told
from vdbackup.errors import Cancelled
from vdbackup.jobs import CancelToken, Task
from vdbackup.recovery.history import index as index_module
from vdbackup.recovery.history import noting
from vdbackup.recovery.history.find import Pattern, Search, find
from vdbackup.recovery.history.index import Index

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, as_root: None) -> Story:
    """Eight points of a disk."""
    return told(tmp_path_factory.mktemp("index"), "ext4")


def searched(story: Story, index: Path | None, text: str = "*") -> Search:
    return find(story.repository, SET, Pattern(text), index, Task())


@pytest.fixture
def made(story: Story, tmp_path: Path) -> Path:
    """An index of all points."""
    searched(story, tmp_path / "names")
    return tmp_path / "names"


@contextmanager
def opened(index: Path) -> Iterator[sqlite3.Connection]:
    """The database in an index, which is sealed again as it is then."""
    data, start = index.read_bytes(), len(index_module._MAGIC) + index_module._SEAL
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(zstandard.ZstdDecompressor().decompress(data[start:]))
        yield database
        database.commit()
        packed = zstandard.ZstdCompressor().compress(database.serialize())
    index.write_bytes(index_module._MAGIC + blake3(packed).digest() + packed)


def test_a_point_under_another_ones_id_is_read_again(story: Story, made: Path) -> None:
    wanted = searched(story, None).found
    with opened(made) as database:
        ids = [each for (each,) in database.execute("select id from points order by number")]
        for number, each in enumerate(reversed(ids)):
            database.execute("update points set id = ? where number = ?", (each, number))
    found = searched(story, made)
    assert found.found == wanted
    assert found.read > 0
    again = searched(story, made)
    assert (again.found, again.read) == (wanted, 0)


@pytest.mark.parametrize(
    "lie",
    [
        "create trigger t after insert on names begin delete from names; end",
        "create view v as select * from names",
        "create table more (number integer)",
        "update names set kind = char(27) || '[2J'",
        "update names set first = -1",
        "update names set last = 1000000",
        "update names set first = last + 1 where last < 5",
        "update names set size = -1",
        "update points set number = number + 1 where number = (select max(number) from points)",
        "update points set seen = 1000",
        "insert into warnings values (1000, 'what is not there')",
        "update seen set digest = x'00'",
        "update seen set ranges = x'00'",
        "update seen set ranges = x'00000000000000100000010000000000'",  # beyond every disk
        "update seen set ranges = x'01000000000000000000010000000000'",  # not a block's beginning
        "update seen set ranges = x'0000000000000000000000000000ff7f'",
        "update seen set ranges = x'00000000000000000000000000000080'",
        "pragma writable_schema = 1; delete from sqlite_schema where name = 'names'",
    ],
)
def test_an_index_that_contradicts_itself_is_made_anew(story: Story, made: Path, lie: str) -> None:
    wanted = searched(story, None).found
    with opened(made) as database:
        database.executescript(lie)
    with Index.load(made) as index:
        assert index.points == []
    found = searched(story, made)
    assert (found.found, found.read > 0, found.warnings) == (wanted, True, ())


def test_a_type_that_a_column_does_not_have_is_no_type_of_it(story: Story, made: Path) -> None:
    with opened(made) as database:
        database.executescript(
            "create table lax (path, kind, size, modified, first, last); "
            "insert into lax select path, kind, 'large', modified, first, last from names; "
            "pragma writable_schema = 1; "
            "update sqlite_schema set rootpage = (select rootpage from sqlite_schema"
            " where name = 'lax') where name = 'names'; "
            "delete from sqlite_schema where name = 'lax'"
        )
    with Index.load(made) as index:
        assert index.points == []


def test_what_is_damaged_is_no_name_and_is_not_noted(tmp_path: Path) -> None:
    story, index = told(tmp_path, "ext4"), tmp_path / "names"
    wanted = searched(story, None).found
    layer = story.repository.set(SET).disk_path(story.points[0])
    whole = layer.read_bytes()
    layer.chmod(0o600)
    layer.write_bytes(whole.replace(b"three", b"thrEe"))
    found = searched(story, index)
    assert not [each for each in found.found if "thrEe" in each.path]
    assert any("are not as captured" in each for each in found.warnings)
    layer.write_bytes(whole)
    mended = searched(story, index)
    assert (mended.found, mended.warnings) == (wanted, ())
    assert mended.read > 0
    assert searched(story, index).read == 0


def test_points_whose_digests_are_damaged_are_read_each_time(tmp_path: Path) -> None:
    story, index = told(tmp_path, "ext4"), tmp_path / "names"
    wanted = searched(story, index).found
    digests = story.repository.set(SET).folder / story.points[-1].digests
    digests.chmod(0o600)
    with digests.open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    for _ in range(2):
        found = searched(story, index)
        assert (found.found, found.read > 0) == (wanted, True)


def test_names_of_points_that_are_gone_go_with_them(tmp_path: Path) -> None:
    story, index = told(tmp_path, "ext4"), tmp_path / "names"
    searched(story, index)
    for point in story.points[2:4]:
        story.merge(point)
    with story.changing() as top:
        (top / "new").write_bytes(os.urandom(100))
    story.point("full")
    searched(story, index)
    left = {point.id for point in story.points}
    with Index.load(index) as after:
        assert {each for each in after.points if each} == left
        kept = [each for each in after.names() if any(after.points[each.first : each.last + 1])]
        assert kept == list(after.names())
    assert searched(story, index).found == searched(story, None).found


def test_a_point_in_which_no_folder_changed_is_noted_without_reading_it(tmp_path: Path) -> None:
    story, index = told(tmp_path, "ext4"), tmp_path / "names"
    searched(story, index)
    story.point()
    found = searched(story, index)
    assert found.read == 0
    assert found.found == searched(story, None).found


def test_a_process_of_its_own_notes_what_the_next_search_need_not_read(
    story: Story, tmp_path: Path
) -> None:
    index = tmp_path / "names"
    assert noting.note(story.repository.path, SET, index, Task())
    found = searched(story, index)
    assert (found.read, found.found) == (0, searched(story, None).found)


def test_it_gives_way_to_whoever_writes(story: Story, tmp_path: Path) -> None:
    index = tmp_path / "names"
    with story.repository.lock("backing up"):
        assert not noting.note(story.repository.path, SET, index, Task())
    assert not index.exists()


def test_it_can_be_cancelled_and_fails_nothing(story: Story, tmp_path: Path) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        noting.note(story.repository.path, SET, tmp_path / "names", Task(cancel=cancel))
    assert not noting.note(story.repository.path, "no such set", tmp_path / "names", Task())
    assert not noting.note(tmp_path / "nowhere", SET, tmp_path / "names", Task())
