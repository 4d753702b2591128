"""`vdbackup agent`: what it would write, what it wrote, and that all of it goes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Vdbackup
from tests.sources.ordinary_user import as_an_ordinary_user


def files(folder: Path) -> set[str]:
    return {str(each) for each in folder.rglob("*") if not each.is_dir()}


def test_a_dry_run_names_every_file_and_the_command_writes_those(vdbackup: Vdbackup, tmp_path):
    root = tmp_path / "root"
    planned = vdbackup("agent", "install", "--root", root, "--dry-run", "--json").json
    assert planned["event"] == "plan"
    assert not root.exists()
    shown = vdbackup("agent", "install", "--root", root, "--dry-run").out
    assert all(f"  new: {each}\n" in shown for each in planned["creates"])
    done = vdbackup("agent", "install", "--root", root, "--json")
    assert (done.status, done.json["event"], done.json["listens"]) == (0, "result", False)
    assert set(done.json["files"]) == set(planned["creates"]) == files(root)
    gone = vdbackup("agent", "remove", "--root", root, "--json")
    assert set(gone.json["files"]) == set(planned["creates"])
    assert files(root) == set()


def test_an_ordinary_user_installs_nothing_on_this_system(vdbackup: Vdbackup):
    with as_an_ordinary_user():
        refused = vdbackup("agent", "install", "--json")
    assert refused.status == 1
    assert json.loads(refused.err)["code"] == "needs-root"
