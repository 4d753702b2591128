"""The key of what is encrypted: asked for, or read from a file."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.recovery.mount.points import process_behind
from tests.volumes import luks, volumes
from tests.volumes.volumes import MIB

KEY = "viel größer"


def plain_file_system(folder: Path) -> None:
    """An ext4 with a letter in it, `plain`, that is to be encrypted."""
    (folder / "tree").mkdir()
    (folder / "tree" / "letter.txt").write_text("Dear all")
    volumes.blank(folder / "plain", 8 * MIB)
    volumes.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", folder / "tree", folder / "plain")


def backed_up(folder: Path) -> Path:
    """A repository with one point of the disk there."""
    done = subprocess.run(
        [sys.executable, "-m", "vdbackup", "backup", folder / "disk.img", "-r", folder / "kept"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    return folder / "kept"


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one point, of a disk that is encrypted as a whole."""
    folder = tmp_path_factory.mktemp("encrypted")
    plain_file_system(folder)
    luks.luks2(folder / "plain", folder / "disk.img", KEY.encode(), *luks.PBKDF2)
    return backed_up(folder)


@pytest.fixture(scope="module")
def two_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one point, of a disk with two encrypted partitions."""
    folder = tmp_path_factory.mktemp("two-keys")
    plain_file_system(folder)
    for name in ("p1", "p2"):
        luks.luks2(folder / "plain", folder / name, f"key of {name}".encode(), *luks.PBKDF2)
    size = (folder / "p1").stat().st_size
    volumes.blank(folder / "disk.img", 4 * MIB + 2 * size)
    line = f"size={size // 512}\n"
    volumes.partition(folder / "disk.img", f"label: gpt\n{line}{line}")
    with (folder / "disk.img").open("r+b") as file:
        for at, name in ((MIB, "p1"), (MIB + size, "p2")):
            file.seek(at)
            file.write((folder / name).read_bytes())
    return backed_up(folder)


def test_without_the_key_it_is_said_how_to_give_it(vdbackup: Vdbackup, encrypted: Path) -> None:
    said = vdbackup("files", "-r", encrypted, "latest")
    assert said.status == 1
    assert "it is encrypted with LUKS" in said.err
    assert "--unlock asks for it, --key-file FILE reads it" in said.err


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_key_may_be_in_a_file_as_an_editor_writes_it(
    vdbackup: Vdbackup, encrypted: Path, tmp_path: Path, end: str
) -> None:
    (tmp_path / "key").write_bytes((KEY + end).encode())
    with_key = ("--key-file", tmp_path / "key")
    listed = vdbackup("files", "-r", encrypted, "latest", "/", *with_key, "--json")
    assert {each["name"] for each in listed.json} == {"letter.txt", "lost+found"}
    got = vdbackup("extract", "-r", encrypted, "latest", "/letter.txt", tmp_path, *with_key)
    assert got.status == 0, got.err
    assert (tmp_path / "letter.txt").read_text() == "Dear all"


def test_a_wrong_key_is_an_error_of_its_own_and_nothing_is_written(
    vdbackup: Vdbackup, encrypted: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("viel kleiner")
    said = vdbackup("extract", "-r", encrypted, "latest", "/", tmp_path / "got",
                    "--key-file", tmp_path / "key", "--json")  # fmt: skip
    assert (said.status, json.loads(said.err.splitlines()[-1])["code"]) == (1, "wrong-key")
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("content", [b"", b"x" * ((8 << 20) + 1)], ids=["empty", "endless"])
def test_a_file_that_can_be_no_key_is_refused(
    vdbackup: Vdbackup, encrypted: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "key").write_bytes(content)
    said = vdbackup("files", "-r", encrypted, "latest", "--key-file", tmp_path / "key")
    assert said.status == 2
    assert "holds no key" in said.err


def test_a_folder_is_no_key(vdbackup: Vdbackup, encrypted: Path, tmp_path: Path) -> None:
    said = vdbackup("files", "-r", encrypted, "latest", "--key-file", tmp_path)
    assert said.status == 2
    assert "holds no key" in said.err


def test_without_a_terminal_nobody_is_asked(vdbackup: Vdbackup, encrypted: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vdbackup", "files", "-r", encrypted, "latest", "--unlock"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no terminal" in done.stderr


def test_at_a_terminal_it_is_asked_for_and_not_shown(encrypted: Path) -> None:
    ours, its = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "vdbackup", "files", "-r", encrypted, "latest", "--unlock"],
            stdin=its, stdout=subprocess.PIPE, stderr=its, start_new_session=True,
        )  # fmt: skip
        asked = b""
        while not asked.endswith(b"key: "):  # typed before, it would be shown
            asked += os.read(ours, 1)
        os.write(ours, KEY.encode() + b"\n")
        out, _ = process.communicate(timeout=60)
        shown = os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(its)
    assert process.returncode == 0
    assert b"letter.txt" in out
    assert KEY.encode() not in shown


def test_a_point_is_mounted_with_its_key(
    vdbackup: Vdbackup, encrypted: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "look").mkdir()
    said = vdbackup("mount", "-r", encrypted, "latest", tmp_path / "look", "--background",
                    "--key-file", tmp_path / "key")  # fmt: skip
    assert said.status == 0, said.err
    try:
        assert (tmp_path / "look" / "letter.txt").read_text() == "Dear all"
        process = process_behind(tmp_path / "look")
        assert os.readlink(f"/proc/{process}/fd/0") == os.devnull  # it keeps no request, no key
    finally:
        vdbackup("umount", tmp_path / "look")


def test_files_are_looked_for_with_the_key(
    vdbackup: Vdbackup, encrypted: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(KEY)
    with_key = ("--key-file", tmp_path / "key", "--json")
    for command in (
        ("find", "-r", encrypted, "letter*"),
        ("versions", "-r", encrypted, "/letter.txt"),
        ("diff", "-r", encrypted, "latest", "latest"),
        ("size", "-r", encrypted, "latest"),
    ):
        said = vdbackup(*command, *with_key)
        assert said.status == 0, said.err
    assert vdbackup("size", "-r", encrypted, "latest", *with_key).json["files"]


def test_each_volume_can_have_a_key_file_of_its_own(
    vdbackup: Vdbackup, two_keys: Path, tmp_path: Path
) -> None:
    for name in ("p1", "p2"):
        (tmp_path / name).write_text(f"key of {name}")
    keys = ("--key-file", f"p1={tmp_path / 'p1'}", "--key-file", f"p2={tmp_path / 'p2'}")
    for path in ("/p1", "/p2"):
        listed = vdbackup("files", "-r", two_keys, "latest", path, *keys, "--json")
        assert "letter.txt" in {each["name"] for each in listed.json}, listed.err
    crossed = ("--key-file", f"p1={tmp_path / 'p2'}", "--key-file", f"p2={tmp_path / 'p1'}")
    said = vdbackup("files", "-r", two_keys, "latest", *crossed)
    assert said.status == 1
    assert "The key for p1 does not open it" in said.err
    (tmp_path / "look").mkdir()
    said = vdbackup("mount", "-r", two_keys, "latest", tmp_path / "look", "--background", *keys)
    assert said.status == 0, said.err
    try:
        for name in ("p1", "p2"):
            assert (tmp_path / "look" / name / "letter.txt").read_text() == "Dear all"
    finally:
        vdbackup("umount", tmp_path / "look")


def test_a_file_whose_name_has_a_sign_in_it_is_meant_where_it_is_there(
    vdbackup: Vdbackup, encrypted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a=b").write_text(KEY)
    monkeypatch.chdir(tmp_path)
    listed = vdbackup("files", "-r", encrypted, "latest", "--key-file", "a=b")
    assert listed.status == 0, listed.err
