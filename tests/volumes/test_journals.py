"""File systems that were in use when they were captured: the kernel says what they hold."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest

from tests.sources.loops import mounted
from tests.volumes.volumes import MIB, browsing, run
from vdbackup import cli
from vdbackup.jobs import Task

pytestmark = pytest.mark.usefixtures("as_root")


def put(path: Path, data: bytes) -> None:
    """Write a file, durable with its contents."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)


def sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def in_use(folder: Path, kind: str, size: int, *options: str, mount: tuple[str, ...] = ()) -> Path:
    """A copy of a file system that was made while it was mounted and had just been changed."""
    image, copy = folder / "disk.img", folder / "in-use.img"
    with image.open("wb") as file:
        file.truncate(size)
    run(f"mkfs.{kind}", "-q", *options, image)
    with mounted(image, folder / "before", *mount) as top:
        (top / "docs").mkdir()
        for name in ("report.txt", "gone", "stays"):
            put(top / "docs" / name, b"version 1 of " + name.encode())
    with mounted(image, folder / "before", *mount) as top:
        change(top)
        shutil.copyfile(image, copy)
    return copy


def change(top: Path) -> None:
    """New, replaced, deleted and moved files, made durable by fsync alone."""
    docs, rng = top / "docs", random.Random(5)
    put(docs / "new.txt", b"important\n" * 1000)
    put(docs / "tmp", b"version 2, which is longer\n" * 300)
    (docs / "tmp").rename(docs / "report.txt")
    (docs / "gone").unlink()
    # what begins like the journal's own blocks is escaped there; blocks that are freed are revoked
    put(docs / "magic", bytes.fromhex("c03b3998") + bytes(5000))
    for number in range(60):
        folder = top / f"folder{number % 7}"
        folder.mkdir(exist_ok=True)
        put(folder / f"{number}", rng.randbytes(rng.randrange(9000)))
        if number % 3 == 0:
            (folder / f"{number}").unlink()
    shutil.rmtree(top / "folder3")
    put(top / "last", b"last")
    sync_folder(docs)
    sync_folder(top)
    run("sync", "--file-system", top)
    put(docs / "stays", b"version 2")  # of all this, the only thing in Btrfs' log


def tree(top: Path) -> dict[str, bytes | None]:
    """What a folder holds, without what mkfs put there."""
    found = (path for path in top.rglob("*") if "lost+found" not in path.parts)
    return {str(p.relative_to(top)): None if p.is_dir() else p.read_bytes() for p in found}


def extracted(image: Path, target: Path) -> tuple[dict[str, bytes | None], tuple[str, ...]]:
    with browsing(image) as browser:
        warnings = browser.extract(["/"], target, Task())
    return tree(target), warnings


@pytest.mark.parametrize(
    ("kind", "options", "mount"),
    [
        ("ext4", (), ()),
        ("ext4", ("-O", "^64bit,^metadata_csum"), ()),
        ("ext4", ("-b", "1024"), ("-o", "data=journal")),
        ("ext4", ("-O", "^metadata_csum", "-b", "4096"), ("-o", "data=journal")),
        ("ext3", (), ()),
    ],
    ids=["ext4", "without-checksums", "data-in-journal-1k", "data-in-journal", "ext3"],
)
def test_ext_is_read_as_the_kernel_shows_it_after_its_journal_was_replayed(
    tmp_path: Path, kind: str, options: tuple[str, ...], mount: tuple[str, ...]
) -> None:
    image = in_use(tmp_path, kind, 200 * MIB, *options, mount=mount)
    found, warnings = extracted(image, tmp_path / "out")
    with mounted(image, tmp_path / "kernel") as top:
        wanted = tree(top)
    assert wanted["docs/report.txt"] == b"version 2, which is longer\n" * 300
    assert found == wanted
    assert warnings == ()


@pytest.mark.parametrize(("kind", "size"), [("xfs", 320 * MIB), ("btrfs", 128 * MIB)])
def test_of_a_log_that_is_not_applied_it_is_said(tmp_path: Path, kind: str, size: int) -> None:
    image = in_use(tmp_path, kind, size)
    with browsing(image) as browser:
        (warning,) = browser.warnings(["/docs"])
    assert "was not applied" in warning
    assert "files that were changed shortly before may be missing" in warning


@pytest.mark.parametrize("block_size", ["1024", "4096"])
def test_of_fast_commits_it_is_said_that_they_are_not_applied(
    tmp_path: Path, block_size: str
) -> None:
    """What an fsync alone made durable is nowhere else: the kernel shows it, we do not."""
    image, copy = tmp_path / "disk.img", tmp_path / "in-use.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    run("mkfs.ext4", "-q", "-O", "fast_commit", "-b", block_size, image)
    with mounted(image, tmp_path / "before") as top:
        put(top / "old", b"old")
        run("sync", "--file-system", top)
        put(top / "new", b"new")
        shutil.copyfile(image, copy)
    found, (warning,) = extracted(copy, tmp_path / "out")
    with mounted(copy, tmp_path / "kernel") as top:
        assert tree(top) == {"old": b"old", "new": b"new"}
    assert found == {"old": b"old"}
    assert "journal was not applied" in warning


@pytest.mark.parametrize(
    ("kind", "size"), [("ext4", 64 * MIB), ("xfs", 320 * MIB), ("btrfs", 128 * MIB)]
)
def test_of_one_that_was_unmounted_nothing_is_said(tmp_path: Path, kind: str, size: int) -> None:
    in_use(tmp_path, kind, size)
    image = tmp_path / "disk.img"
    found, warnings = extracted(image, tmp_path / "out")
    assert found["last"] == b"last"
    assert warnings == ()


def test_a_damaged_journal_is_not_replayed_and_that_is_said(tmp_path: Path) -> None:
    image = in_use(tmp_path, "ext4", 64 * MIB)
    where = next(
        int(line.split(":")[1].split("-")[0])
        for line in run("debugfs", "-R", "stat <8>", image).splitlines()
        if line.startswith("(0-")
    )
    said = run("dumpe2fs", "-h", image)
    block_size = int(re.search(r"Block size:\s*(\d+)", said)[1])
    with image.open("r+b") as file:
        file.seek(where * block_size)
        file.write(bytes(1024))
    with browsing(image) as browser:
        (warning,) = browser.warnings(["/"])
        assert {entry.name for entry in browser.listing("/docs")} >= {"stays"}
    assert "journal was not applied" in warning


@pytest.mark.parametrize(
    ("begins", "said"), [(b"HIBR", "hibernated"), (b"hibr", "hibernated"), (b"wake", "")]
)
def test_of_a_hibernated_windows_it_is_said_that_its_files_may_be_old(
    tmp_path: Path, begins: bytes, said: str
) -> None:
    image, file = tmp_path / "disk.img", tmp_path / "file"
    with image.open("wb") as disk:
        disk.truncate(48 * MIB)
    run("mkntfs", "--quiet", "--force", "--quick", image)
    file.write_bytes(begins.ljust(9000, b"\1"))
    run("ntfscp", "--quiet", image, file, "hiberfil.sys")
    _, warnings = extracted(image, tmp_path / "out")
    assert [said in warning for warning in warnings] == [True] * bool(said)


def test_the_command_line_says_it_and_ends_with_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, look = in_use(tmp_path, "btrfs", 128 * MIB), tmp_path / "look"
    there = ("-r", str(tmp_path / "repository"))
    assert cli.main(["backup", str(image), *there]) == 0
    with image.open("r+b") as file:  # behind what Btrfs says of itself
        file.seek(127 * MIB)
        file.write(b"changed")
    assert cli.main(["backup", str(image), *there]) == 0
    look.mkdir()
    capsys.readouterr()
    for command in (
        ("files", "latest", "/docs"),
        ("extract", "latest", "/docs", str(tmp_path / "out")),
        ("find", "stays"),
        ("versions", "/docs/stays"),
        ("diff", "1", "2"),
        ("size", "latest"),
        ("mount", "latest", str(look), "--background"),
    ):
        assert cli.main([*command, *there]) == 3, command
        assert "was not applied" in capsys.readouterr().err, command
    assert cli.main(["umount", str(look)]) == 0
