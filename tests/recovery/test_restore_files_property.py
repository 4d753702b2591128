"""Whatever is chosen comes back as it was: random trees, compared by rsync and by the kernel.

rsync compares contents (`--checksum`), owners, permissions, times in nanoseconds, links, hard
links, devices, ACLs and extended attributes, and says what it would change: nothing. Holes it does
not compare; the kernel says how much is none.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.recovery.chosen import again, back_up, restored
from tests.sources.file_sets.trees import NOBODY, acl
from tests.sources.loops import run
from vdbackup.repository.repository import Repository

pytestmark = pytest.mark.usefixtures("as_root")

COMPARE = (
    "rsync", "--dry-run", "--archive", "--hard-links", "--acls", "--xattrs", "--itemize-changes",
    "--checksum", "--delete", "--numeric-ids", "--modify-window=-1",
)  # fmt: skip
SECOND = 1_000_000_000


def differences(one: Path, other: Path) -> str:
    """What rsync would change of the other for it to be the one."""
    return run(*COMPARE, f"{one}/", f"{other}/")


@dataclass(frozen=True)
class Described:
    """What a file or folder gets beside its content."""

    owner: int
    group: int
    mode: int
    time: int
    attributes: dict[str, bytes] = field(default_factory=dict)
    user_of_acl: int | None = None

    def give(self, path: bytes) -> None:
        os.chown(path, self.owner, self.group, follow_symlinks=False)
        if not os.path.islink(path):
            os.chmod(path, self.mode)
            if self.user_of_acl is not None:
                others = ((4, 5, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY))
                entries = acl((1, 7, NOBODY), (2, 6, self.user_of_acl), *others)
                os.setxattr(path, "system.posix_acl_access", entries)
            plain = os.path.isdir(path) or os.path.isfile(path)  # others have none of users
            for name, value in self.attributes.items():
                if plain or not name.startswith("user."):
                    os.setxattr(path, name, value)
        os.utime(path, ns=(self.time, self.time), follow_symlinks=False)


NAMES = st.binary(min_size=1, max_size=60).filter(
    lambda name: not {0, 47} & set(name) and name not in (b".", b"..")
)
NUMBERS = st.sampled_from([0, 1, 1000, 65_534, 70_000, 4_000_000_000])
TIMES = st.integers(-2_000_000_000 * SECOND, 15_000_000_000 * SECOND)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["user.a", "user.größe", "trusted.t"]), st.binary(max_size=300), max_size=3
)
DESCRIBED = st.builds(
    Described, NUMBERS, NUMBERS, st.integers(0, 0o7777), TIMES, ATTRIBUTES,
    st.none() | st.integers(1, 70_000),
)  # fmt: skip
STRETCHES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9000)), max_size=4)
"""Of a file's data: at which multiple of 64 KiB, and how many bytes."""
KINDS = st.one_of(
    st.tuples(st.just("file"), STRETCHES, st.integers(0, 5_000_000)),
    st.tuples(st.just("folder")),
    st.tuples(st.just("link"), st.binary(min_size=1, max_size=300).filter(lambda to: 0 not in to)),
    st.tuples(st.just("node"), st.sampled_from([0o010000, 0o020000, 0o060000, 0o140000])),
    st.tuples(st.just("name"), st.integers(0, 50)),
)
TREES = st.lists(st.tuples(NAMES, st.integers(0, 50), KINDS, DESCRIBED), max_size=14)


def build(root: bytes, tree: list) -> None:
    """What a tree says, as far as it can be; described at the end, what lies deepest first."""
    folders, files = [root], []
    described: dict[bytes, Described] = {}
    for name, choice, (kind, *what), how in tree:
        path = os.path.join(folders[choice % len(folders)], name)
        if os.path.lexists(path):
            continue
        if kind == "folder":
            os.mkdir(path)
            folders.append(path)
        elif kind == "file":
            write(path, *what)
            files.append(path)
        elif kind == "link":
            os.symlink(what[0], path)
        elif kind == "node":
            os.mknod(path, what[0] | 0o600, os.makedev(7, 70_000))
        elif files:
            os.link(files[what[0] % len(files)], path)
        else:
            continue
        described[path] = how
    for path, how in sorted(described.items(), key=lambda each: -each[0].count(b"/")):
        how.give(path)


def write(path: bytes, stretches: list[tuple[int, int]], size: int) -> None:
    with open(path, "wb") as file:
        for at, length in stretches:
            file.seek(at << 16)
            file.write(bytes([at + 1]) * length)
        file.truncate(max(size, file.tell()))


def holes(folder: Path) -> dict[bytes, int]:
    """How many bytes of each file have a place on the disk."""
    root = os.fsencode(folder)
    return {
        os.path.join(above, name)[len(root) :]: os.lstat(os.path.join(above, name)).st_blocks
        for above, _, names in os.walk(root)
        for name in names
    }


@settings(
    max_examples=8 if os.environ.get("VDBACKUP_LONG") != "1" else 300,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink takes minutes
)
@given(tree=TREES, later=TREES)
def test_a_tree_comes_back_as_it_was_and_as_it_was_later(tmp_path: Path, tree: list, later: list):
    above = Path(tempfile.mkdtemp(dir=tmp_path))
    try:
        folder = above / "chosen"
        folder.mkdir()
        build(os.fsencode(folder), tree)
        repository = back_up(folder)
        comes_back(repository, folder, above / "back")
        build(os.fsencode(folder), later)
        assert again(folder).warnings == ()
        comes_back(repository, folder, above / "later")
        # over what came back before, too: what is there and not in the point stays
        done = restored(repository, above / "back", overwrite=True)
        assert done.warnings == ()
        assert differences(folder, Path(f"{above}/back{folder}")) == ""
    finally:
        shutil.rmtree(above)


def comes_back(repository: Repository, folder: Path, target: Path) -> None:
    done = restored(Repository.open(repository.path), target)
    assert done.warnings == ()
    back = Path(f"{target}{folder}")
    assert differences(folder, back) == ""
    before, now = holes(folder), holes(back)
    assert before.keys() == now.keys()
    assert all(now[name] <= before[name] + 16 for name in now)


def test_rsync_sees_what_it_is_to_compare(tmp_path: Path):
    """A nanosecond, an attribute, an entry of an ACL, another name of a file."""
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        for each in "abcde":
            (folder / each).write_bytes(b"the same")
            os.utime(folder / each, ns=(5, 5 * SECOND + 1))
    one, other = tmp_path / "one", tmp_path / "other"
    os.utime(one, ns=(1, 1))
    os.utime(other, ns=(1, 1))
    assert differences(one, other) == ""
    os.utime(other / "a", ns=(5, 5 * SECOND + 2))
    os.setxattr(other / "b", "user.x", b"1")
    Described(0, 0, 0o644, 5 * SECOND + 1, {}, 17).give(os.fsencode(other / "c"))
    (other / "d").write_bytes(b"not same")
    os.utime(other / "d", ns=(5, 5 * SECOND + 1))
    (other / "e").unlink()
    os.link(other / "d", other / "e")
    os.utime(other, ns=(1, 1))
    assert [line.split()[-1] for line in differences(one, other).splitlines()] == list("abcde")
