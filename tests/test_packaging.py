"""What `packaging/` does to the machine it runs on, as far as that can be had without a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PREPARE = Path(__file__).resolve().parents[1] / "packaging" / "prepare.sh"


def test_an_environment_that_is_a_link_to_another_checkouts_is_refused_and_stays(tmp_path: Path):
    other, checkout = tmp_path / "other", tmp_path / "checkout"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").write_text("another checkout's")
    (other / "origin").write_text("/another/checkout\n")
    (checkout / "packaging").mkdir(parents=True)
    shutil.copy(PREPARE, checkout / "packaging")
    (checkout / ".venv").symlink_to(other)
    fill = 'set -eu; . "$0/packaging/prepare.sh"; choose_environment; fill_environment ""'
    done = subprocess.run(
        ["bash", "-c", fill, str(checkout)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{checkout}/.venv is a link to {other}" in done.stderr
    assert "Remove the link" in done.stderr
    assert (other / "bin" / "python").read_text() == "another checkout's"
