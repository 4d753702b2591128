"""Paths that others name are followed in next to no time, however long they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vdbackup.repository import near_paths
from vdbackup.repository.near_paths import NearPaths


def test_what_is_mounted_is_looked_up_once_for_each_part_of_a_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near, looked = NearPaths([]), []
    dirname = os.path.dirname
    monkeypatch.setattr(os.path, "dirname", lambda path: looked.append(path) or dirname(path))
    long = Path("/" + "a/" * 1000)
    assert near.followed(long) == long
    assert len(looked) < 10


def test_a_path_that_is_longer_than_any_leads_nowhere() -> None:
    assert NearPaths([]).followed(Path("/" + "a/" * 5000)) is None


def test_links_and_dots_are_followed_over_what_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to("../share")
    (tmp_path / "here" / "whole").symlink_to(tmp_path / "here")
    mounts = tmp_path / "mountinfo"
    far = f"90 1 0:90 / {share} rw - nfs4 nas:/x rw"
    mounts.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n{far}\n")
    monkeypatch.setattr(near_paths, "_MOUNTS", mounts)
    near = NearPaths([])
    for far_away in ("share", "share/disk", "here/link", "here/whole/link/disk", "here/../share"):
        assert near.followed(tmp_path / far_away) is None
    for at_hand in ("here/whole/disk", "here/whole/whole/disk", "shares/../here/disk"):
        assert near.followed(tmp_path / at_hand) == tmp_path / "here" / "disk"
    assert NearPaths([share]).followed(tmp_path / "here/link/disk") == share / "disk"
