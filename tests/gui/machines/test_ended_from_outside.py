"""The real window is told to end while a machine runs: nothing that it wrote goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import running
from vdbackup import cli
from vdbackup.locations import Locations
from vdbackup.settings import KnownSource, Settings, ThemeChoice
from vdbackup.sources.reference import SourceRef

LIMIT = 240
"""Seconds that the window may take to end on a busy machine."""

_WINDOW = """
import sys
from PySide6.QtCore import QTimer
from vdbackup.gui import app
from vdbackup.gui.main_window import MainWindow

class Watched(MainWindow):
    def __init__(self, *given):
        super().__init__(*given)
        self.clock = QTimer(interval=50)
        self.clock.timeout.connect(self.look)
        self.clock.start()

    def look(self):
        boot = self.actions_["actionBootInVm"]
        running = self.sessions.running
        if not running and boot.isEnabled():
            boot.trigger()
        session = running[0].session if running else None
        if session and session.wait_for_text("the first state", timeout=0.01):
            self.clock.stop()
            print(session.folder, flush=True)

app.MainWindow = Watched
sys.exit(app.main([]))
"""


@pytest.fixture
def window(
    tmp_path: Path, disk: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    """The window's process, which starts a machine of the only point."""
    for name in ("CONFIG", "DATA", "LOG"):
        monkeypatch.setenv(f"VDBACKUP_{name}_DIR", str(tmp_path / name.lower()))
    assert cli.main(["backup", str(disk), "-r", str(repository)]) == 0
    settings = Settings(theme=ThemeChoice.LIGHT, headless=True, animations=False, memory_mib=128)
    settings = settings.with_source(KnownSource(SourceRef.of_path(disk), repository, "laptop"))
    settings.save(Locations.from_environment().settings_file)
    with subprocess.Popen(
        [sys.executable, "-c", _WINDOW],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_window_that_is_ended_by_a_signal_keeps_what_its_machine_wrote(
    window: subprocess.Popen[str],
) -> None:
    assert window.stdout is not None
    folder = Path(window.stdout.readline().strip())
    assert (folder / "session.json").exists()
    window.send_signal(signal.SIGTERM)
    assert window.wait(LIMIT) == 0
    assert json.loads((folder / "session.json").read_text())["ended"]
    assert (folder / "session.qcow2").exists()
    assert running.naming(folder) == []
