"""Whatever is done to a tree in whatever order, its disk holds it at each point, by the kernel.

The model is the tree itself. e2fsck looks at the disk after each point.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.sources.file_sets.kept import Kept
from tests.sources.file_sets.trees import same

pytestmark = pytest.mark.usefixtures("as_root")

NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"\xff\n", b"n" * 255]),
    st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name)),
).filter(lambda name: name not in (b".", b".."))
SIZES = st.sampled_from([0, 1, 4095, 4096, 4097, 70_000, 262_143, 262_144, 900_001])
ANY = st.integers(0, 1 << 30)


class Trees(RuleBasedStateMachine):
    """Files and folders that are made, written, renamed, linked, given away and deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="vdbackup-trees-"))
        self.root = os.fsencode(self.folder / "chosen")
        os.mkdir(self.root)
        self.kept = Kept(self.folder / "files.img", Path(os.fsdecode(self.root)))

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def every(self) -> list[bytes]:
        return sorted(
            os.path.join(above, name)
            for above, folders, files in os.walk(self.root)
            for name in (*folders, *files)
        )

    def folders(self) -> list[bytes]:
        return [self.root, *filter(_is_folder, self.every())]

    def files(self) -> list[bytes]:
        return [path for path in self.every() if not _is_folder(path)]

    def place(self, choice: int, name: bytes) -> bytes | None:
        """A path that nothing has."""
        folders = self.folders()
        path = os.path.join(folders[choice % len(folders)], name)
        return path if not os.path.lexists(path) and len(path) < 2000 else None

    @rule(choice=ANY, name=NAMES, size=SIZES)
    def make_file(self, choice: int, name: bytes, size: int) -> None:
        if path := self.place(choice, name):
            Path(os.fsdecode(path)).write_bytes(name[:1] * size)

    @rule(choice=ANY, name=NAMES, files=st.sampled_from([0, 3, 200]))
    def make_folder(self, choice: int, name: bytes, files: int) -> None:
        if path := self.place(choice, name):
            os.mkdir(path)
            for number in range(files):
                Path(os.fsdecode(path), f"file {number:040}").write_bytes(b"%d" % number)

    @rule(choice=ANY, name=NAMES, length=st.sampled_from([1, 59, 60, 3000]))
    def make_link(self, choice: int, name: bytes, length: int) -> None:
        if path := self.place(choice, name):
            os.symlink(b"t" * length, path)

    @rule(choice=ANY, name=NAMES, kind=st.sampled_from([0o010600, 0o020600, 0o140600]))
    def make_node(self, choice: int, name: bytes, kind: int) -> None:
        if path := self.place(choice, name):
            os.mknod(path, kind, os.makedev(1, 3))

    @rule(choice=ANY, other=ANY, name=NAMES)
    def give_another_name(self, choice: int, other: int, name: bytes) -> None:
        files, path = self.files(), self.place(other, name)
        if files and path:
            os.link(files[choice % len(files)], path, follow_symlinks=False)

    @rule(choice=ANY, other=ANY, name=NAMES)
    def rename(self, choice: int, other: int, name: bytes) -> None:
        every, path = self.every(), self.place(other, name)
        if every and path:
            chosen = every[choice % len(every)]
            if not path.startswith(chosen + b"/"):
                os.rename(chosen, path)

    @rule(choice=ANY)
    def delete(self, choice: int) -> None:
        if every := self.every():
            path = every[choice % len(every)]
            shutil.rmtree(path) if _is_folder(path) else os.unlink(path)

    @rule(choice=ANY, offset=SIZES, size=SIZES)
    def write(self, choice: int, offset: int, size: int) -> None:
        if plain := [path for path in self.files() if _is_plain(path)]:
            with open(plain[choice % len(plain)], "r+b") as file:
                file.seek(offset)
                file.write(b"w" * size)

    @rule(choice=ANY, size=SIZES)
    def cut(self, choice: int, size: int) -> None:
        if plain := [path for path in self.files() if _is_plain(path)]:
            os.truncate(plain[choice % len(plain)], size)

    @rule(choice=ANY, owner=st.integers(0, (1 << 32) - 2), mode=st.integers(0, 0o7777))
    def give_away(self, choice: int, owner: int, mode: int) -> None:
        if every := self.every():
            path = every[choice % len(every)]
            os.chown(path, owner, owner, follow_symlinks=False)
            if not os.path.islink(path):
                os.chmod(path, mode)

    @rule(choice=ANY, name=st.sampled_from("ab"), size=st.sampled_from([0, 10, 1500]))
    def describe(self, choice: int, name: str, size: int) -> None:
        if every := self.every():
            path = every[choice % len(every)]
            os.setxattr(path, f"trusted.{name}", b"v" * size, follow_symlinks=False)

    @rule(choice=ANY, moment=st.integers(-(1 << 31), 1 << 33))
    def set_time(self, choice: int, moment: int) -> None:
        if every := self.every():
            moment = moment * 1_000_000_000 + 123_456_789
            path = every[choice % len(every)]
            os.utime(path, ns=(moment, moment), follow_symlinks=False)

    @rule()
    def keep(self) -> None:
        self.kept.keep()
        assert self.kept.trouble == ()
        with self.kept.mounted() as there:
            same(there, Path(os.fsdecode(self.root)))


def _is_folder(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _is_plain(path: bytes) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


def machine(examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Trees,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=checks,
        ),
    )


def test_any_tree_is_kept_at_any_point():
    machine(4, 25)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_any_tree_is_kept_at_any_of_many_points():
    machine(150, 60)
