"""Every write of a guest of libvirt's is kept, from its start on, and nothing of it is changed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Said, Vdbackup
from tests.guests import boot_sector, other_init, tiny_linux
from tests.recovery.libvirt import Libvirt
from vdbackup.operations import guest_protection
from vdbackup.repository.kept_logs import kept_logs

RECORDS = 12
_INIT = f"""\
#!/bin/sh
mount -t devtmpfs none /dev
while read -r driver; do insmod "/drivers/$driver"; done < /drivers/order
for try in 1 2 3 4 5 6 7 8 9 10; do
  mount -t ext4 /dev/vda2 /sysroot && break
  sleep 0.2
done
for record in $(busybox seq {RECORDS}); do
  echo "record $record" >> /sysroot/records
  busybox sync
done
umount /sysroot
poweroff -f
"""
_DOMAIN = """\
<domain type="qemu">
  <name>{name}</name>
  <memory unit="MiB">256</memory>
  <vcpu>1</vcpu>
  <os><type arch="x86_64" machine="pc">hvm</type></os>
  <features><acpi/></features>
  <devices>
    {disks}
    <disk type="file" device="cdrom">
      <driver name="qemu" type="raw"/>
      <source file="{cdrom}"/><target dev="sda" bus="sata"/><readonly/>
    </disk>
  </devices>
</domain>
"""
_DISK = """\
    <disk type="file" device="disk">
      <driver name="qemu" type="{kind}"/>
      <source file="{disk}"/><target dev="{target}" bus="{bus}"/>
    </disk>
"""


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> Iterator[Libvirt]:
    """libvirt's session daemon is at hand; it does not run."""
    with tempfile.TemporaryDirectory(prefix="lv-") as folder:  # a socket's path is short
        made = Libvirt(Path(folder))
        monkeypatch.setenv("PATH", str(made.programs), prepend=":")
        yield made


@pytest.fixture
def libvirt(off: Libvirt) -> Iterator[Libvirt]:
    """It runs."""
    with off.running():
        yield off


def defined(libvirt: Libvirt, folder: Path, *disks: Path, kind: str = "raw", bus: str) -> str:
    """A guest's definition, as libvirt has it."""
    (folder / "empty.iso").write_bytes(bytes(1 << 20))
    places = {"virtio": "vd", "ide": "hd"}
    described = "".join(
        _DISK.format(kind=kind, disk=disk, bus=bus, target=f"{places[bus]}{'abc'[number]}")
        for number, disk in enumerate(disks)
    )
    file = folder / "domain.xml"
    file.write_text(_DOMAIN.format(name="web", disks=described, cdrom=folder / "empty.iso"))
    libvirt.virsh("define", file)
    return libvirt.virsh("dumpxml", "--inactive", "web")


def moments_of(vdbackup: Vdbackup, repository: Path) -> dict[str, Any]:
    (log,) = vdbackup("moments", "-r", repository, "--json").json
    assert log["trouble"] is None
    return log


def records_at(vdbackup: Vdbackup, repository: Path, point: str, folder: Path) -> list[str]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    said = vdbackup("extract", "-r", repository, point, "/p2/records", folder)
    return (folder / "records").read_text().splitlines() if said.status == 0 else []


@pytest.mark.long
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_each_moment_of_a_linux_in_libvirt_holds_what_it_had_flushed_by_then(
    vdbackup: Vdbackup, libvirt: Libvirt, tmp_path: Path, kind: str
):
    raw = Path(shutil.copyfile(tiny_linux.image(), tmp_path / "linux.img"))
    other_init.put(raw, _INIT)
    disk = raw
    if kind == "qcow2":
        disk = tmp_path / "linux.qcow2"
        tiny_linux.run("qemu-img", "convert", "-O", "qcow2", raw, disk)
    before = defined(libvirt, tmp_path, disk, kind=kind, bus="virtio")
    repository = tmp_path / "backups"
    said = vdbackup("protect", "--guest", "web", "-r", repository)
    assert (said.status, "every write of web is kept" in said.out) == (0, True), said.err
    assert libvirt.virsh("dumpxml", "--inactive", "web") == before
    assert libvirt.virsh("domstate", "web").strip() == "shut off"

    log = moments_of(vdbackup, repository)
    assert (log["point"], log["title"], log["why"]) == (1, "web", "Its machine has ended.")
    seen = [
        records_at(vdbackup, repository, each["point"], tmp_path / "out") for each in log["moments"]
    ]
    every = [f"record {number + 1}" for number in range(RECORDS)]
    assert all(each == every[: len(each)] for each in seen)
    assert [len(each) for each in seen] == sorted(len(each) for each in seen)
    assert {len(each) for each in seen} == set(range(RECORDS + 1))
    last = f"1@w{log['writes']}"
    assert vdbackup("restore", "-r", repository, last, tmp_path / "again.img").status == 0
    tiny_linux.run("qemu-img", "compare", tmp_path / "again.img", disk)


@pytest.fixture
def waits(libvirt: Libvirt, tmp_path: Path) -> Path:
    """The disk of a guest that says something, and then waits."""
    disk = boot_sector.make(tmp_path / "waits.img", boot_sector.say("it waits"))
    defined(libvirt, tmp_path, disk, bus="ide")
    return disk


def nodes(libvirt: Libvirt) -> list[str]:
    answer = libvirt.virsh("qemu-monitor-command", "web", '{"execute": "query-block"}')
    return [
        each["inserted"]["node-name"]
        for each in json.loads(answer)["return"]
        if each.get("inserted", {}).get("ro") is False
    ]


@pytest.mark.long
def test_a_guest_goes_on_without_its_log_when_that_was_to_be_kept_no_longer(
    vdbackup: Vdbackup, libvirt: Libvirt, waits: Path, tmp_path: Path
):
    repository = tmp_path / "backups"
    assert vdbackup("protect", "--guest", "web", "-r", repository, "--for", "2s").status == 0
    assert libvirt.virsh("domstate", "web").strip() == "running"
    assert nodes(libvirt) == ["libvirt-2-format"]
    assert moments_of(vdbackup, repository)["why"] == "That was asked for."
    said = vdbackup("protect", "--guest", "web", "-r", repository)
    assert said.status == 1
    assert "The guest web runs." in said.err
    assert len(kept_logs(repository / "waits")) == 1


@pytest.mark.long
def test_what_is_left_of_one_that_was_killed_is_taken_out_by_unprotect(
    vdbackup: Vdbackup, libvirt: Libvirt, waits: Path, tmp_path: Path, monkeypatch: Any
):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    repository = tmp_path / "backups"
    with monkeypatch.context() as patch:
        patch.setattr(guest_protection, "_look_after", killed)
        assert protect(vdbackup, repository).status == 130
    assert nodes(libvirt) == ["writes"]
    assert vdbackup("unprotect", waits, "-r", repository).status == 0
    assert nodes(libvirt) == ["libvirt-2-format"]
    assert moments_of(vdbackup, repository)["why"] == "That was asked for."


@pytest.mark.long
def test_a_log_that_a_guest_still_writes_to_is_not_noted_as_ended(
    vdbackup: Vdbackup, libvirt: Libvirt, waits: Path, tmp_path: Path, monkeypatch: Any
):
    """It is another user's, say, whom libvirt tells nothing of it."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    repository = tmp_path / "backups"
    with monkeypatch.context() as patch:
        patch.setattr(guest_protection, "_look_after", killed)
        assert protect(vdbackup, repository).status == 130
    silent = tmp_path / "silent"
    silent.mkdir()
    (silent / "virsh").write_text("#!/bin/sh\nexit 1\n")
    (silent / "virsh").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(silent), prepend=":")
        said = vdbackup("unprotect", waits, "-r", repository)
        assert said.status == 1
        assert "libvirt has no guest 'web' that you may use, or does not answer." in said.err
        (log,) = kept_logs(repository / "waits")
        assert log.protection.ended is None
    assert nodes(libvirt) == ["writes"]
    libvirt.virsh("destroy", "web")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(silent), prepend=":")
        assert vdbackup("unprotect", waits, "-r", repository).status == 0


@pytest.mark.long
def test_a_guest_whose_log_cannot_be_put_in_does_not_run_and_leaves_no_log(
    vdbackup: Vdbackup, libvirt: Libvirt, waits: Path, tmp_path: Path, monkeypatch: Any
):
    """QEMU may not open the file: it runs as another user, say."""
    made = guest_protection.begin

    def of_nobody(path: Path, size: int) -> int:
        writes = made(path, size)
        path.rename(path.with_suffix(".away"))
        return writes

    monkeypatch.setattr(guest_protection, "begin", of_nobody)
    said = protect(vdbackup, tmp_path / "backups")
    assert said.status == 1
    assert libvirt.virsh("domstate", "web").strip() == "shut off"
    assert not kept_logs(tmp_path / "backups" / "waits")
    assert vdbackup("moments", "-r", tmp_path / "backups", "--json").json == []


def protect(vdbackup: Vdbackup, repository: Path) -> Said:
    return vdbackup("protect", "--guest", "web", "-r", repository)


@pytest.mark.long
def test_a_guest_that_cannot_be_protected_is_not_started(
    vdbackup: Vdbackup, libvirt: Libvirt, tmp_path: Path
):
    said = protect(vdbackup, tmp_path / "backups")
    assert said.status == 1
    assert "libvirt has no guest 'web'" in said.err
    disks = [boot_sector.make(tmp_path / name, boot_sector.say("x")) for name in ("a", "b")]
    defined(libvirt, tmp_path, *disks, bus="ide")
    said = protect(vdbackup, tmp_path / "backups")
    assert said.status == 1
    assert "has 2 disks" in said.err
    assert libvirt.virsh("domstate", "web").strip() == "shut off"
    assert not (tmp_path / "backups").exists()


def test_without_libvirts_daemon_it_is_said_what_is_missing(
    vdbackup: Vdbackup, off: Libvirt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said = protect(vdbackup, tmp_path / "backups")
    assert said.status == 1
    assert "libvirt has no guest 'web' that you may use, or does not answer." in said.err
    monkeypatch.setenv("PATH", str(tmp_path))
    said = protect(vdbackup, tmp_path / "backups")
    assert said.status == 1
    assert "libvirt's virsh is not installed." in said.err
