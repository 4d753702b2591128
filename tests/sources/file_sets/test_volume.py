"""Chosen files on a logical volume are read from a snapshot of it, mounted where nobody sees it.

The kernel of these tests knows no device-mapper: what LVM makes is a copy of the volume here, of a
moment in which it was frozen. It is real in tests/backup/in_use/test_files_of_a_volume.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.recovery.chosen import as_restored, restore
from tests.sources.file_sets.test_one_moment import back_up, how, writing
from tests.sources.file_sets.trees import settled
from tests.sources.loops import loop, mounted, run
from vdbackup.consistency import How
from vdbackup.errors import NotFrozen, SourceLost
from vdbackup.sources import lvm_snapshot
from vdbackup.sources.file_sets import sync
from vdbackup.sources.moment import Wanted

pytestmark = pytest.mark.usefixtures("as_root")

MAKE = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q")}


class Lvm:
    """What makes snapshots: copies of one image, each a loop device while it is there."""

    def __init__(self, image: Path, mount: Path) -> None:
        self._image, self._mount = image, mount
        self.made: list[Path] = []
        self.is_full = False
        self.spoil: Callable[[Path], None] = lambda copy: None

    def __call__(self, path: Path) -> _Made:
        assert path.name.startswith("loop")
        copy = self._image.with_suffix(f".{len(self.made)}")
        run("fsfreeze", "--freeze", self._mount)
        try:
            run("cp", "--sparse=always", self._image, copy)
        finally:
            run("fsfreeze", "--unfreeze", self._mount)
        self.spoil(copy)
        self.made.append(copy)
        return _Made(self, copy)


class _Made(ExitStack):
    def __init__(self, lvm: Lvm, copy: Path) -> None:
        super().__init__()
        self._lvm = lvm
        self.node = self.enter_context(loop(copy, "--read-only"))

    def check(self) -> None:
        if self._lvm.is_full:
            raise SourceLost("More was written meanwhile than the snapshot had room for.", "")


@pytest.fixture(params=["ext4", pytest.param("xfs", marks=pytest.mark.long)])
def lvm(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lvm]:
    """A volume that is mounted at `home`, with files in it."""
    image = tmp_path / "volume.img"
    image.touch()
    os.truncate(image, 400 << 20)
    run(*MAKE[request.param], image)
    with loop(image) as device, mounted(device, tmp_path / "home") as home:
        (home / "inner").mkdir()
        for number in range(30):
            (home / f"{number:02}").write_bytes(b"%d" % number * 1000)
        made = Lvm(image, home)
        monkeypatch.setattr(lvm_snapshot, "can_be_of", lambda path: path == device)
        monkeypatch.setattr(lvm_snapshot, "Snapshot", made)
        yield made


@pytest.fixture
def home(lvm: Lvm, tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_all_files_are_of_the_moment_of_the_snapshot_and_nothing_is_left_of_it(
    lvm: Lvm, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before, mounts = as_restored(home), Path("/proc/self/mountinfo").read_text()
    writing(home, monkeypatch)
    made = back_up(home, to=tmp_path / "backups", consistency=Wanted.FROZEN)
    assert how(made) is How.SNAPSHOT
    assert made.warnings == ()
    assert (home / "05").read_bytes() == b"later"
    assert restore(made.repository, tmp_path / "back") == ()
    assert as_restored(Path(f"{tmp_path}/back{home}")) == before
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert len(lvm.made) == 1


def test_what_has_not_changed_is_not_read_again(
    lvm: Lvm, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settled(home)
    back_up(home / "inner", home / "07", home / "08", to=tmp_path / "backups")
    read: list[int] = []
    real = sync.Content

    def content(*arguments: object) -> object:
        read.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sync, "Content", content)
    (home / "07").write_bytes(b"changed")
    made = back_up(home / "inner", home / "07", home / "08", to=tmp_path / "backups")
    assert (how(made), len(read)) == (How.SNAPSHOT, 1)


def test_a_snapshot_that_was_full_gives_no_point(lvm: Lvm, home: Path, tmp_path: Path):
    back_up(home, to=tmp_path / "backups")
    lvm.is_full = True
    with pytest.raises(SourceLost):
        back_up(home, to=tmp_path / "backups")
    assert how(back_up(home, to=tmp_path / "backups", consistency=Wanted.AS_IS)) is How.AS_IS
    assert [each.name for each in (tmp_path / "backups").rglob("*.partial")] == []


def test_where_it_cannot_be_mounted_files_are_read_as_they_are_and_it_is_said(
    lvm: Lvm, home: Path, tmp_path: Path
):
    lvm.spoil = lambda copy: os.truncate(copy, 1 << 20)
    made = back_up(home, to=tmp_path / "backups")
    assert how(made) is How.AS_IS
    assert restore(made.repository, tmp_path / "back") == ()
    with pytest.raises(NotFrozen, match="cannot be mounted"):
        back_up(home, to=tmp_path / "backups", consistency=Wanted.FROZEN)


def test_a_part_of_a_volume_that_is_mounted_elsewhere_is_read_as_it_is(
    lvm: Lvm, home: Path, tmp_path: Path
):
    """Its path in the snapshot is another one, or what the mount hides there."""
    (home / "inner" / "file").write_bytes(b"file")
    (home / "over").mkdir()
    for number, place in enumerate((tmp_path / "elsewhere", home / "over")):
        with mounted(home / "inner", place, "--bind") as bound:
            made = back_up(bound, to=tmp_path / f"backups {number}")
            assert how(made) is How.AS_IS
            assert restore(made.repository, tmp_path / f"back {number}") == ()
        assert os.listdir(f"{tmp_path}/back {number}{place}") == ["file"]
    assert lvm.made == []
