"""A loop device that udev leaves alone, and that is gone when its process is."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sources.loops import run
from vdbackup.errors import NotResized
from vdbackup.recovery.loop_device import loop_device

MIB = 1 << 20
pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image"
    file.write_bytes(b"0123456789abcdef" * (4 * MIB // 16))
    return file


def users(image: Path) -> str:
    return run("losetup", "--noheadings", "--list", "--output", "NAME", "--associated", image)


def test_it_is_the_stretch_and_what_is_written_to_it_is_in_the_file(image: Path) -> None:
    with loop_device(image, MIB, 2 * MIB) as device:
        assert run("blockdev", "--getsize64", device) == str(2 * MIB)
        with Path(device).open("r+b") as opened:
            assert opened.read(16) == b"0123456789abcdef"
            opened.seek(0)
            opened.write(b"written")
    assert not users(image)
    assert image.read_bytes()[MIB : MIB + 8] == b"written7"


def test_udev_does_not_get_the_lock_without_which_it_does_not_look(image: Path) -> None:
    with loop_device(image) as device:
        fd = os.open(device, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(fd)


def test_it_is_gone_where_what_is_done_with_it_fails(image: Path) -> None:
    with pytest.raises(RuntimeError), loop_device(image):
        raise RuntimeError
    assert not users(image)


def test_it_is_gone_where_its_process_is_killed(image: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from vdbackup.recovery.loop_device import loop_device\n"
        "with loop_device(Path(sys.argv[1])) as device:\n"
        " print(device, flush=True)\n time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, image], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("/dev/loop")
        assert users(image)
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while users(image):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_the_kernel_does_not_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotResized, match="loop device"), loop_device(tmp_path / "nothing"):
        pass
