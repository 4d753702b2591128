"""What is needed meanwhile goes with the process that needed it, however that ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from vdbackup.recovery.scratch import scratch_folder

KILLED = """
import os, sys
from pathlib import Path
from vdbackup.recovery.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "large").write_bytes(b"overlay")
    os.kill(os.getpid(), 9)
"""


def test_it_is_gone_when_its_block_ends(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        (folder / "large").write_bytes(b"overlay")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_has_left_goes_with_the_next_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    (tmp_path / "vdbackup-other").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / f"{left.name}-link").symlink_to(tmp_path / "kept")
    with scratch_folder(tmp_path) as first, scratch_folder(tmp_path) as second:
        assert first.is_dir()  # which is in use
        assert second.is_dir()
        assert not left.exists()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["kept", "vdbackup-other", f"{left.name}-link"]
