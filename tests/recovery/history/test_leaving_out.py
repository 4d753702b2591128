"""What need not be kept is known by its place or mark, measured, and left out where that can be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.recovery.mount.points import SET, back_up
from tests.sources.loops import run
from vdbackup.jobs import Task
from vdbackup.operations import backup, file_choice
from vdbackup.operations.machines import Machines
from vdbackup.recovery.browse import FileBrowser
from vdbackup.recovery.history.leaving_out import Why
from vdbackup.recovery.history.owners import Sizes, sizes
from vdbackup.repository import claims
from vdbackup.repository.repository import Repository
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.file_sets.tree import SIGNATURE

MIB = 1 << 20
NEEDLESS = {
    "home/me/.cache/browser/page": (Why.CACHE, "home/me/.cache"),
    "home/me/.local/share/Trash/files/old": (Why.TRASH, "home/me/.local/share/Trash"),
    "home/me/build/CACHEDIR.TAG": (Why.MARKED, "home/me/build"),
    "home/me/site/node_modules/a/node_modules/b": (Why.FETCHED, "home/me/site/node_modules"),
    "var/cache/apt/archives/one.deb": (Why.CACHE, "var/cache"),
    "var/tmp/half": (Why.TEMPORARY, "var/tmp"),
    "var/log/journal/system.journal": (Why.LOGS, "var/log/journal"),
    ".Trash-1000/files/gone": (Why.TRASH, ".Trash-1000"),
    "swap.img": (Why.SWAP, "swap.img"),
}
"""Files, and what they are told to be, where that begins."""
KEPT = (
    "home/me/cache/thesis",
    "home/me/tmp/thesis",
    "home/me/Trash/thesis",
    "home/me/fake/CACHEDIR.TAG",
    "home/me/swap.img",
    "var/lib/journal/books",
)


def made(top: Path) -> Path:
    for number, name in enumerate((*NEEDLESS, *KEPT)):
        file = top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        mark = SIGNATURE if name == "home/me/build/CACHEDIR.TAG" else b"Signature: another one"
        file.write_bytes(mark + os.urandom((2 + number) * MIB - len(mark)))
    small = top / "srv" / ".cache" / "small"
    small.parent.mkdir(parents=True)
    small.write_bytes(b"not worth a thought")
    return top


def looked_through(repository: Repository, name: str = SET) -> Sizes:
    newest = repository.set(name).points[-1]
    return sizes(repository, name, newest.id, "/", Task())


def test_of_a_disk_it_is_said_what_need_not_be_kept_and_how_large_that_is(tmp_path: Path) -> None:
    top, image = made(tmp_path / "tree"), tmp_path / "disk.img"
    run("mke2fs", "-q", "-t", "ext4", "-d", top, image, "300M")
    repository, _ = back_up(image, tmp_path / "backups")
    found = looked_through(repository).needless
    sizes_of = {name: (top / name).stat().st_size for name in NEEDLESS}
    wanted = {f"/{where}": (why, sizes_of[name]) for name, (why, where) in NEEDLESS.items()}
    assert {each.path: each.why for each in found} == {
        path: why for path, (why, _) in wanted.items()
    }
    for each in found:  # beside the file a folder or two have a block each
        assert wanted[each.path][1] <= each.bytes <= wanted[each.path][1] + 32768
    assert [each.bytes for each in found] == sorted((e.bytes for e in found), reverse=True)
    assert {each.exclude for each in found} == {""}
    hints = {each.why for each in found if each.why.is_a_hint}
    assert hints == {Why.LOGS, Why.FETCHED}


def files_backed_up(choice: Choice, tmp_path: Path) -> tuple[Repository, str]:
    request = backup.BackupRequest(file_choice.reference(choice), tmp_path / "backups", kind="full")
    done = backup.back_up(request, Machines(tmp_path / "sessions"), Task())
    assert done.warnings == ()
    return done.repository, done.set_name


def test_chosen_files_are_left_out_by_the_patterns_that_are_proposed(tmp_path: Path) -> None:
    top = made(tmp_path / "a [strange] name*")
    choice = Choice.of([str(top)], caches=True)
    repository, name = files_backed_up(choice, tmp_path)
    found = looked_through(repository, name)
    patterns = [each.exclude for each in found.needless]
    expected = {why for why, where in NEEDLESS.values() if "/" in where and "var/" not in where}
    assert {each.why for each in found.needless} >= expected
    assert found.choice == choice

    less = Choice.of([str(top)], patterns, caches=True)
    repository, name = files_backed_up(less, tmp_path)
    point = repository.set(name).points[-1]
    with claims.open_point(repository, name, point.id, "") as disk:
        browser = FileBrowser(disk)
        inner = f"/p1{top}/home/me"
        names = {each.name for each in browser.listing(inner)}
    assert names >= {"cache", "tmp", "Trash", "fake", "swap.img"}
    assert not names & {".cache", "build"}
    again = looked_through(repository, name)
    assert not {each.exclude for each in again.needless} & set(patterns)
    assert again.stored < found.stored


@pytest.mark.parametrize("chosen", ["home/me/.cache", "home/me/.cache/browser"])
def test_what_somebody_has_chosen_by_name_is_not_proposed(tmp_path: Path, chosen: str) -> None:
    top = made(tmp_path / "tree")
    repository, name = files_backed_up(Choice.of([str(top / chosen)]), tmp_path)
    assert looked_through(repository, name).needless == ()
