"""A point of chosen files as the second disk of a virtual machine: its Linux reads them."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from tests.guests.other_init import packed
from tests.guests.tiny_linux import BOOT_START, SECTOR
from tests.recovery.chosen import again
from vdbackup.qemu import concatenation

_LIMIT = 600.0
_INIT = """\
#!/bin/sh
mount -t devtmpfs none /dev
while read -r driver; do insmod "/drivers/$driver"; done < /drivers/order
for try in 1 2 3 4 5 6 7 8 9 10; do
  mount -t ext4 /dev/vda1 /sysroot && break
  sleep 0.2
done
cd /sysroot{folder} && busybox sha256sum * && echo written > new && busybox sync
echo THE-END
poweroff -f
"""


def test_a_linux_reads_the_files_of_each_point_from_its_second_disk(
    tmp_path: Path, disk_format: str, tiny_linux: Path
):
    """Also what it writes there is its own: the point stays as it was."""
    folder = tmp_path / "chosen"
    folder.mkdir()
    wanted = []
    for number in range(3):
        for name in ("kept", f"made {number}", "changes"):
            (folder / name).write_bytes(f"{number}, {name}\n".encode() * 3000)
        made = again(folder, disk_format=disk_format)
        wanted.append(sums(folder))
    backup_set = made.repository.set()
    layers = {path: path.read_bytes() for path in backup_set.folder.iterdir()}
    for point, files in zip(backup_set.points[1:], wanted[1:], strict=True):
        with backup_set.open_chain(point) as chain:
            where = tmp_path / f"map of {point.sequence}"
            where.mkdir()
            paths = [layer.path for layer in chain.layers]
            disk = concatenation.build(where, chain.map, paths).file_name
        said = seen_by_linux(disk, folder, tiny_linux, where)
        found, end, _ = said.partition("THE-END")
        assert end
        assert dict(line.split("  ", 1)[::-1] for line in found.splitlines()) == files
    assert {path: path.read_bytes() for path in backup_set.folder.iterdir()} == layers


def sums(folder: Path) -> dict[str, str]:
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in folder.iterdir()}


def seen_by_linux(disk: str, folder: Path, linux: Path, where: Path) -> str:
    """What a Linux says that has the disk, and nothing else."""
    commas_doubled = disk.replace(",", ",,")
    boot = f"{linux}@@{BOOT_START * SECTOR}"
    for name in ("vmlinuz", "initrd.gz"):
        subprocess.run(["mcopy", "-i", boot, f"::{name}", where / name], check=True)
    with (where / "initrd.gz").open("ab") as file:
        file.write(packed(_INIT.format(folder=folder), where))
    done = subprocess.run(
        ["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-display", "none", "-serial", "stdio",
         "-monitor", "none", "-no-reboot", "-nodefaults", "-snapshot",
         "-kernel", where / "vmlinuz", "-initrd", where / "initrd.gz",
         "-append", "console=ttyS0 quiet panic=-1 no_timer_check",
         "-drive", f"file={commas_doubled},if=virtio"],
        capture_output=True, text=True, check=True, timeout=_LIMIT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout.replace("\r", "")
