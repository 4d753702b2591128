"""As many points as years of hourly backups make, under the limits that a user has.

The short form has 150 points and 64 descriptors; `packaging/test -m long tests/test_many_points.py`
has 2,000 and 1,024.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from contextlib import closing

import pytest

from tests.backup.lab import Lab
from tests.backup.long_sets import SAID, lengthen, said
from tests.guests import boot_sector
from tests.noise import noise
from vdbackup.qemu.gathering import OTHER_FILES

MIB = 1 << 20
SHORT, LONG = (150, 64), (2000, 1024)

RUN = """
import json, sys
from vdbackup import cli
print(json.dumps([cli.main(arguments) for arguments in json.loads(sys.argv[1])]), file=sys.stderr)
"""


SAY = f"""
    mov si, packet
    mov ah, 0x42        ; read through the BIOS
    int 0x13
    mov si, 0x8000
    mov dx, 0x3F8       ; the first serial port
    mov cx, {SAID}
next:
    lodsb
    out dx, al
    loop next
    jmp halt
packet: db 16, 0
    dw 1, 0x8000, 0
    dq {8 * MIB // 512}
"""
"""Instructions that write to the serial port what the block begins with that all points have."""


@pytest.fixture(params=[SHORT, pytest.param(LONG, marks=pytest.mark.long)], ids=["short", "long"])
def scale(request) -> tuple[int, int]:
    """How many points, and how many descriptors."""
    return request.param


@pytest.fixture
def lab(tmp_path, disk_format, scale) -> Lab:
    """A disk with a file system in its lower half, and that many points."""
    lab = Lab(tmp_path, 16 * MIB, disk_format=disk_format)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "letter.txt").write_text("as it was")
    system = tmp_path / "ext4"
    make = ["mkfs.ext4", "-q", "-F", "-d", tree, system, "8M"]
    subprocess.run(make, check=True, capture_output=True)
    code = boot_sector.make(tmp_path / "code", SAY, 512).read_bytes()
    lab.poke(0, code + system.read_bytes()[512:])  # ext4 leaves the first 1,024 bytes alone
    lab.poke(8 * MIB, noise(MIB, 1))
    lab.backup()
    lengthen(lab, scale[0])
    return lab


def run(
    limit: int, *commands: list[object], hard: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Commands, one after the other in one process that may have `limit` descriptors.

    `hard` is how far programs may raise that, where it is more.
    """
    arguments = json.dumps([[str(word) for word in command] for command in commands])
    return subprocess.run(
        [sys.executable, "-c", RUN, arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard or limit)),
    )


def test_a_point_is_read_through_more_layers_than_there_may_be_descriptors(lab, scale, tmp_path):
    points, limit = scale
    at = ["-r", lab.repository.path]
    done = run(
        limit,
        ["list", *at, "--json"],
        ["restore", points, tmp_path / "out.raw", *at],
        ["files", points, *at],
        ["extract", points, "/letter.txt", tmp_path / "files", *at],
    )
    assert json.loads(done.stderr.splitlines()[-1]) == [0, 0, 0, 0], done.stderr
    assert (tmp_path / "out.raw").read_bytes() == lab.image.read_bytes()
    assert (tmp_path / "files/letter.txt").read_text() == "as it was"


def test_a_point_is_made_verified_merged_and_deleted_among_many(lab, scale):
    points, limit = scale
    lab.poke(12 * MIB, noise(MIB, 2))
    at = ["-r", lab.repository.path]
    done = run(
        limit,
        ["backup", lab.image, *at, "--set", "disk"],
        ["verify", *at],
        ["merge", 2, *at],
        ["delete", points // 2, "--yes", *at],
        ["verify", points + 1, *at],
    )
    assert json.loads(done.stderr.splitlines()[-1]) == [0, 0, 0, 0, 0], done.stderr
    left = lab.set
    assert len(left.points) == points - 1
    assert all(point.verified and point.verified.ok for point in (left.points[1], left.points[-1]))
    with left.open_chain(left.points[-1]) as chain:
        assert len(chain.layers) == points - 1
        data = bytearray(chain.size)
        chain.readinto(0, memoryview(data))
    assert data == lab.image.read_bytes()


def test_a_damaged_block_counts_against_the_points_that_show_it(lab, scale):
    points, limit = scale
    damaged = lab.set.points[9]
    layer = lab.layer(damaged)
    with closing(lab.open(layer)) as disk:
        host = int(disk.block_map().hosts[disk.block_map().layers >= 0][-1])  # its own block
    layer.chmod(0o600)
    with layer.open("r+b") as file:
        file.seek(host)
        file.write(b"damaged")
    done = run(limit, ["verify", "-r", lab.repository.path])
    assert json.loads(done.stderr.splitlines()[-1]) == [1], done.stderr
    # the layer that has the same block for its own comes when all others had theirs
    shown = range(10, min(points, 10 + 16 * MIB // 65536 // 2 - 1))
    wrong = [point.sequence for point in lab.set.points if not point.verified.ok]
    assert wrong == list(shown)


def test_a_machine_boots_through_more_layers_than_a_program_may_open_files(lab, scale):
    points, limit = scale
    hard = max(limit, OTHER_FILES + 12)
    assert hard < points
    boot = ["boot", points, "-r", lab.repository.path, "--headless", "--hardware", "ahci"]
    boot += ["--firmware", "bios", "--until", said(points).decode(), "--timeout", 120]
    done = run(limit, boot, hard=hard)
    assert json.loads(done.stderr.splitlines()[-1]) == [0], done.stderr + done.stdout
