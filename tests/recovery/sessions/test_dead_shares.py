"""What a machine is on is not asked of a share whose server is gone: that would wait for ever."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources.loops import unmount
from vdbackup.errors import RecoveryError
from vdbackup.recovery.sessions import elsewhere


@pytest.fixture
def share(as_root: None, tmp_path: Path) -> Iterator[Path]:
    """A FUSE mount; its server is a process of ours."""
    folder, where = tmp_path / "storage", tmp_path / "share"
    folder.mkdir()
    where.mkdir()
    with subprocess.Popen(["bindfs", "-f", str(folder), str(where)]) as server:
        while not os.path.ismount(where):
            assert server.poll() is None
        (tmp_path / "server").write_text(str(server.pid))
        try:
            yield where
        finally:
            server.send_signal(signal.SIGCONT)
            unmount(where)


def make(path: Path, parent: Path | None = None) -> Path:
    below = ["-b", str(parent), "-F", "qcow2"] if parent else []
    size = [] if parent else ["1M"]
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *below, str(path), *size]
    subprocess.run(command, check=True)
    return path


def test_a_snapshot_on_a_share_that_answers_is_seen_to_lie_above_the_machines_disk(
    share: Path, tmp_path: Path
) -> None:
    own = make(tmp_path / "session.qcow2")
    above = make(share / "snapshot.qcow2", own)
    other = make(share / "other.qcow2")
    near = elsewhere._Near(own)
    assert near.leads_to_own(str(above))
    assert not near.leads_to_own(str(other))
    assert not near.leads_to_own(str(share / "missing.qcow2"))


def test_a_share_that_does_not_answer_is_said_and_not_waited_for(
    share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make(tmp_path / "session.qcow2")
    above = make(share / "snapshot.qcow2", own)
    monkeypatch.setattr(elsewhere, "_SILENCE", 0.3)
    os.kill(int((tmp_path / "server").read_text()), signal.SIGSTOP)
    near = elsewhere._Near(own)
    for _ in range(2):
        with pytest.raises(RecoveryError, match="does not answer"):
            near.leads_to_own(str(above))
