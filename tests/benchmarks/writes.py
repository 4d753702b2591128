"""What a log of every write costs its guest: `python -m tests.benchmarks.writes FOLDER`.

The tiny Linux writes to a file on its ext4, past its own cache: blocks of 4 KiB and of 64 KiB one
after the other, 4 KiB here and there, and small files with an fsync behind each. It says how long
that took by its own clock. It does so with a log and without in turn; what counts is the median of
the ratios, pair by pair, because the machine's speed drifts. FOLDER says which storage is measured:
the session's disk and the log both lie there.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from tests.backup.lab import Lab
from tests.guests import tiny_linux
from tests.guests.tiny_linux import _member as member
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.recovery.sessions import vm
from vdbackup.repository.kept_logs import kept_logs

LIMIT = 600.0
DONE = "ALL WRITTEN"
_SAID = re.compile(r"TOOK (\S+) ([0-9.]+) ([0-9.]+)")
# busybox alone: a loop in its shell starts a process for each write, so those are few
_INIT = """\
#!/bin/sh
b=/bin/busybox
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
while read -r driver; do insmod "/drivers/$driver"; done < /drivers/order
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  root=$(findfs LABEL=root) && break
  sleep 0.2
done
mount -t ext4 "$root" /sysroot
f=/sysroot/file
$b dd if=/dev/urandom of=/random bs=64k count=192 2>/dev/null
$b dd if=/random of=$f bs=64k conv=fsync 2>/dev/null
took() {
  name=$1; shift
  read -r before rest < /proc/uptime
  "$@"
  read -r after rest < /proc/uptime
  echo "TOOK $name $before $after"
}
small() { $b dd if=/random of=$f bs=4k count=2048 conv=notrunc oflag=direct 2>/dev/null; }
large() { $b dd if=/random of=$f bs=64k count=192 conv=notrunc oflag=direct 2>/dev/null; }
scattered() {
  at=7
  for i in 0 1 2 3 4 5 6 7 8 9; do for j in 0 1 2 3 4 5 6 7 8 9; do
    at=$(((at * 1103 + 12345) % 3000))
    $b dd if=/random of=$f bs=4k count=1 seek=$at conv=notrunc oflag=direct 2>/dev/null
  done; done
}
files() {
  for i in 0 1 2 3 4 5 6 7 8 9; do for j in 0 1 2 3 4 5 6 7 8 9; do
    $b dd if=/random of=/sysroot/small$i$j bs=3k count=1 conv=fsync 2>/dev/null
  done; done
}
for round in 1 2 3; do
  took sequential-4k small
  took sequential-64k large
  took scattered-4k scattered
  took files-fsync files
done
umount /sysroot
echo "ALL WRITTEN"
poweroff -f
"""


def writer(path: Path) -> Path:
    """The tiny Linux with another `init`: the kernel takes the last of what it finds twice."""
    shutil.copyfile(tiny_linux.image(), path)
    where = f"{path}@@{tiny_linux.BOOT_START * tiny_linux.SECTOR}"
    initramfs = path.with_name("initrd.gz")
    subprocess.run(["mcopy", "-o", "-i", where, "::initrd.gz", str(initramfs)], check=True)
    own = member("init", 0o100755, _INIT.encode()) + member("TRAILER!!!", 0)
    initramfs.write_bytes(initramfs.read_bytes() + gzip.compress(own))
    subprocess.run(["mcopy", "-o", "-i", where, str(initramfs), "::initrd.gz"], check=True)
    return path


def run(lab: Lab, folder: Path, keep_writes: int | None) -> dict[str, float]:
    """Seconds that the guest took for each kind of writes, the best of its rounds."""
    backup_set, point = lab.repository.find_state("1")
    with vm.start_from_point(
        lab.repository,
        backup_set,
        point,
        sessions_folder=folder,
        request=HardwareRequest(controller=Controller.VIRTIO),
        keep_writes=keep_writes,
    ) as session:
        if not session.wait_for_text(DONE, LIMIT):
            raise RuntimeError(f"the guest was not done:\n{session.console_text()}")
        text = session.console_text()
    took: dict[str, float] = {}
    for name, before, after in _SAID.findall(text):
        took[name] = min(took.get(name, LIMIT), float(after) - float(before))
    return took


def main() -> None:
    """Boot in turn, and print a line for each kind of writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    lab = Lab(options.folder, tiny_linux.SIZE, disk_format="qcow2")
    writer(lab.image)
    lab.backup()
    pairs: list[tuple[dict[str, float], dict[str, float]]] = []
    for round_ in range(options.rounds):
        runs: dict[bool, dict[str, float]] = {}
        for logged in (False, True) if round_ % 2 else (True, False):
            runs[logged] = run(lab, options.folder / "sessions", 1 << 40 if logged else None)
        pairs.append((runs[False], runs[True]))
        (kept,) = kept_logs(lab.set.folder)
        began = time.process_time()
        log = kept.read()
        read = time.process_time() - began
        print(
            f"round {round_ + 1}: {log.writes:,} writes, {kept.stored >> 20} MiB, read {read:.2f} s"
        )
        kept.remove()
    for name in pairs[0][0]:
        plain = statistics.median(each[0][name] for each in pairs)
        logged_ = statistics.median(each[1][name] for each in pairs)
        ratio = statistics.median(each[1][name] / each[0][name] for each in pairs)
        print(f"{name:15} {plain:7.2f} s {logged_:7.2f} s with a log, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
