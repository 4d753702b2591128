"""Whatever lies in the place of a small file of ours, each command does its work or says why not.

A table: each file, all that may be there instead, each command. None ends in a fault of the
program, hangs, or keeps the other set's work from being done.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.cli.test_damaged_records import two_sets

__all__ = ["two_sets"]

FILES = (
    ".lock", ".lock.json", "vdbackup.json", "damaged/set.json", "damaged/journal.json",
    "damaged/0002-incremental.json", "damaged/0001-full.digests",
    "damaged/hold-20260301-120000-abcdef.json",
)  # fmt: skip
LONG = "VDBACKUP_LONG" in os.environ
"""All of the table; else a third of it, another one for each file."""
Put = Callable[[Path, bytes], object]


def numbers(value: object) -> Put:
    """The same record with another number wherever there is one."""

    def put(path: Path, before: bytes) -> None:
        said = json.loads(before) if before.startswith(b"{") else {"layout": 1, "pid": 1}
        path.write_text(json.dumps(changed(said)))

    def changed(said: object) -> object:
        if isinstance(said, dict):
            return {key: changed(each) for key, each in said.items()}
        if isinstance(said, list):
            return [changed(each) for each in said]
        return value if type(said) is int else said

    return put


INSTEAD: dict[str, Put] = {
    "empty": lambda path, _: path.touch(),
    "zeros": lambda path, _: path.write_bytes(bytes(4096)),
    "garbage": lambda path, _: path.write_bytes(bytes(range(256)) * 40),
    "1 GiB": lambda path, _: (path.touch(), os.truncate(path, 1 << 30)),
    "a pipe": lambda path, _: os.mkfifo(path),
    "a socket": lambda path, _: os.mknod(path, stat.S_IFSOCK | 0o600),
    "a link to nothing": lambda path, _: path.symlink_to("nowhere"),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
    "a link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "a folder": lambda path, _: (path.mkdir(), (path / "inside").write_text("kept")),
    "null": lambda path, _: path.write_text("null"),
    "a list": lambda path, _: path.write_text("[]"),
    "an empty object": lambda path, _: path.write_text("{}"),
    "very deep": lambda path, _: path.write_bytes(b'{"a":' * 100_000),
    "a number of 5,000 digits": lambda path, _: path.write_text(f'{{"layout": {"9" * 5000}}}'),
    "keys twice": lambda path, before: path.write_bytes(before.strip()[:-1] + b"," + before[1:]),
    "in UTF-16": lambda path, before: path.write_bytes(before.decode("latin1").encode("utf-16")),
    "not a number": numbers(float("nan")),
    "infinity": numbers(float("inf")),
    "huge numbers": numbers(10**4000),
    "less than nothing": numbers(-1),
    "nothing": numbers(0),
}


@pytest.mark.parametrize("name", FILES)
def test_each_command_does_its_work_or_says_why_not(
    vdbackup: Vdbackup, two_sets: Path, tmp_path: Path, name: str
):
    kinds = list(INSTEAD.items())
    for what, put in kinds if LONG else kinds[FILES.index(name) % 3 :: 3]:
        work = Path(shutil.copytree(two_sets, tmp_path / what))
        path = work / "backups" / name
        before = path.read_bytes() if path.exists() else b"{}"
        path.unlink(missing_ok=True)
        put(path, before)
        check_each_command(vdbackup, work, what, alone=name.startswith("damaged/"))
        shutil.rmtree(work)


def check_each_command(vdbackup: Vdbackup, work: Path, what: str, *, alone: bool) -> None:
    repository = work / "backups"
    damaged, other = (("-r", repository, "--set", name) for name in ("damaged", "other"))
    for command in (
        ("list", "-r", repository),
        ("info", repository / "damaged" / "0002-incremental.vmdk"),
        ("verify", *damaged),
        ("restore", "latest", work / "of-damaged.raw", *damaged),
        ("restore", "latest", work / "of-other.raw", *other),
        ("backup", work / "other.img", "-r", repository),
        ("backup", work / "damaged.img", "-r", repository),
        ("merge", "2", *damaged),
        ("repair", "-r", repository),
        ("list", "-r", repository),
    ):
        ended = vdbackup(*command)
        said = f"{what}: {command[0]}: {ended}"
        assert ended.status in (0, 1, 3), said
        assert "unexpected" not in ended.err, said
        assert "Traceback" not in ended.err, said
        assert ended.err or ended.status == 0 or command[0] == "list", said
        if alone and (command[-1] == "other" or work / "other.img" in command):
            assert ended.status == 0 or "of its own" in ended.err, said
    if (work / "of-other.raw").exists():
        assert (work / "of-other.raw").read_bytes() == (work / "other.img").read_bytes()
