"""What commands say in a language that nobody speaks: run by tests/test_translation.py alone."""

from __future__ import annotations

from pathlib import Path
import re

import pytest
from tests.cli.conftest import Vdbackup
from tests.cli.test_help import NAMES


def test_look(vdbackup: Vdbackup, backed_up: list[Path], repository: Path, disk: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "5000")
    at = ("-r", repository)
    asked = [("--help",), *((*name.split(), "--help") for name in NAMES)]
    asked += [
        ("list", *at), ("status", *at), ("files", "latest", *at), ("find", "DIARY*", *at),
        ("versions", "/DIARY.TXT", *at), ("diff", 1, 3, *at), ("size", 2, *at),
        ("info", repository / "laptop" / "0001-full.vmdk"), ("verify", *at),
        ("backup", disk, *at, "--dry-run"), ("backup", disk, *at), ("policy", *at),
        ("policy", *at, "--keep", 2, "--daily", 3, "--dry-run"), ("policy", *at, "--pin", 2, "--note", "x"),
        ("list", *at), ("policy", *at), ("merge", 4, *at, "--dry-run"), ("delete", 2, *at, "--dry-run"),
        ("retarget", "latest", *at, "--dry-run"), ("restore", "latest", tmp_path / "out.img", *at),
        ("restore", "latest", tmp_path / "out.img", *at), ("export", 1, tmp_path / "out.vhd", *at),
        ("extract", 1, "/DIARY.TXT", tmp_path / "files", *at), ("repair", *at), ("sessions", "list"),
        ("schedule", "list"), ("schedule", "set", "--set", "laptop", *at, "--every", "daily", "--dry-run"),
        ("convert", *at, "--to", "vhdx", "--dry-run"), ("list", "-r", tmp_path / "no"), ("boot", 99, *at),
        ("nonsense",), ("backup",), ("list", "--nonsense"), ("merge", *at), ("delete", 1, *at), ("delete", 1, *at, "--yes"),
        ("policy", *at, "--keep", "many"), ("agent", "install", "--dry-run"), ("open-with",),
        ("bisect", *at, "--run", "true"), ("track", disk), ("untrack", disk), ("mount", 1, tmp_path / "no", *at),
        ("umount", tmp_path), ("make-rescue", tmp_path / "medium.iso", "--dry-run"), ("adopt", disk, *at),
        ("size", 99, *at), ("verify", "--against-source", *at), ("backup", disk, *at, "--type", "wrong"),
    ]
    for arguments in asked:
        said = vdbackup(*arguments)
        print(">>>", *arguments, said.status)
        for line in (said.out + said.err).splitlines():
            plain = re.sub(r"(?<!\S)/\S*|--?[a-z-]+|`[^`]*`|\{[^}]*\}|\b[A-Z0-9_]{2,}\b|0x\w+", "", line)
            if re.search("[A-Za-z]{2,}", plain): print("   ", line[:230])
