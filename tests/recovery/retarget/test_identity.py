"""The disk's identity: another one afterwards, and everything else as it was, says sfdisk."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vdbackup.recovery.retarget.identity import new_disk_identity

SIZE = 64 << 20


def disk(folder: Path, label: str) -> Path:
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    table = f"label: {label}\nstart=2048, size=8192\nstart=16384, size=8192\n"
    sfdisk("-q", path, text=table)
    return path


def sfdisk(*arguments: str | Path, text: str | None = None) -> str:
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    done = subprocess.run(
        ["sfdisk", *arguments], input=text, capture_output=True, text=True, env=environment,
        check=True,
    )  # fmt: skip
    assert "rror" not in done.stderr
    return done.stdout


def table(path: Path) -> Any:
    return json.loads(sfdisk("--json", path))["partitiontable"]


def change(path: Path) -> dict[int, bytes]:
    with path.open("rb+") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length).ljust(length, b"\0")

        patches = dict(new_disk_identity(read, SIZE, 512))
        for offset, data in patches.items():
            file.seek(offset)
            file.write(data)
    return patches


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_disk_gets_another_identity_and_keeps_its_partitions(tmp_path: Path, label: str) -> None:
    path = disk(tmp_path, label)
    before = table(path)
    change(path)
    after = table(path)
    assert before.pop("id") != after.pop("id")
    assert after == before
    sfdisk("--verify", path)


def test_both_copies_of_a_gpt_agree(tmp_path: Path) -> None:
    path = disk(tmp_path, "gpt")
    patches = change(path)
    assert len(patches) == 2
    wanted = table(path)["id"]
    with path.open("rb+") as file:  # then the one at the end counts
        file.seek(512)
        file.write(bytes(512))
    done = subprocess.run(
        ["/usr/sbin/sfdisk", "--json", path], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["partitiontable"]["id"] == wanted


@pytest.mark.parametrize("damage", ["no signature", "no identity", "header"])
def test_disk_without_a_sound_table_stays_as_it_is(tmp_path: Path, damage: str) -> None:
    path = disk(tmp_path, "gpt" if damage == "header" else "dos")
    with path.open("rb+") as file:
        if damage == "header":
            for sector in (1, SIZE // 512 - 1):
                file.seek(sector * 512 + 100)
                file.write(b"x")
                file.seek(sector * 512 + 60)
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 1]))  # of the disk's id, which is any
        else:
            file.seek(510 if damage == "no signature" else 440)
            file.write(bytes(2 if damage == "no signature" else 4))
    assert change(path) == {}
