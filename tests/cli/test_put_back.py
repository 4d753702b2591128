"""`extract --to-original`, as a shell and a program use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.mounts import image
from tests.cli.conftest import Vdbackup
from tests.sources.loops import loop, mounted


@pytest.fixture
def letter(as_root: None, vdbackup: Vdbackup, tmp_path: Path, repository: Path) -> Iterator[Path]:
    """A file that was changed since its file system was backed up, which is mounted."""
    disk = image(tmp_path / "disk.img", 32, "ext4")
    with loop(disk) as device, mounted(device, tmp_path / "mount") as folder:
        (folder / "letter").write_text("as it was")
        said = vdbackup("backup", device, "-r", repository)
        assert said.status == 0, said.err
        (folder / "letter").write_text("as it is now")
        yield folder / "letter"


def test_it_is_said_what_would_be_replaced_and_nothing_is_without_a_yes(
    vdbackup: Vdbackup, letter: Path, repository: Path
):
    what = ("extract", "-r", repository, "latest", "/letter", "--to-original")
    plan = vdbackup(*what, "--overwrite", "--dry-run", "--json").json
    assert (plan["files"], plan["same"], plan["differing"], plan["newer"]) == (1, 0, 1, 1)
    assert plan["places"] == plan["replaces"] == [str(letter)]
    said = vdbackup(*what, "--overwrite")
    assert said.status == 1
    assert "nobody can be asked" in said.err
    assert letter.read_text() == "as it is now"
    said = vdbackup(*what)
    assert said.status == 3
    assert letter.read_text() == "as it is now"
    said = vdbackup(*what, "--overwrite", "--yes", "--json")
    assert said.status == 0
    assert said.json == {"event": "result", "files": 1, "same": 0, "warnings": []}
    assert letter.read_text() == "as it was"


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (("/letter", "out", "--overwrite"), "--overwrite goes with --to-original alone"),
        (("/letter", "out", "--dry-run"), "--dry-run goes with --to-original alone"),
        (("/letter",), "not said which folder"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    vdbackup: Vdbackup, repository: Path, more: tuple[str, ...], problem: str
):
    said = vdbackup("extract", "-r", repository, "latest", *more)
    assert said.status == 2
    assert problem in said.err
