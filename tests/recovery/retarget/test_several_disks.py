"""A machine whose system lies on several disks is retargeted as a whole, each file on its disk."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.backup.lab import sha256
from tests.guests import debian, systems
from tests.guests.cache import run
from tests.guests.debian import ALIVE, SECTOR, UEFI_ROOT_START, Debian
from tests.sources.opened import open_path
from vdbackup.backup import machine_capture
from vdbackup.disks.formats import open_disk
from vdbackup.errors import NotRetargeted
from vdbackup.jobs import Task
from vdbackup.recovery.retarget import report, retarget
from vdbackup.recovery.retarget.overlay import publish_overlay
from vdbackup.recovery.retarget.policy import for_new_point
from vdbackup.recovery.sessions import vm
from vdbackup.repository.machine import MomentPoints
from vdbackup.repository.repository import Repository

LIMIT = 900.0
"""Seconds for a boot on a busy machine."""
MIB = 1 << 20
START = 1 * MIB
"""Where the only partition of a disk of data begins, in bytes."""
HOME, ROOT = (str(uuid.UUID(int=number)) for number in (1, 2))
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ext4")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repository")


def partitioned(path: Path, identity: str, content: Path | None = None) -> Path:
    """A disk with one partition, an ext4 of that UUID."""
    volume = path.with_suffix(".volume")
    for file, size in ((path, 40 * MIB), (volume, 32 * MIB)):
        with file.open("wb") as made:
            made.truncate(size)
    filled = ("-d", content) if content else ()
    run("mke2fs", "-q", "-t", "ext4", "-U", identity, *filled, volume)
    run("sfdisk", "-q", path, text=f"label: dos\nstart={START // SECTOR}, size=65536, type=83\n")
    with path.open("r+b") as file:
        file.seek(START)
        file.write(volume.read_bytes())
    volume.unlink()
    return path


def back_up(repository: Repository, disks: Sequence[Path]) -> MomentPoints:
    with ExitStack() as stack:
        sources = [stack.enter_context(open_path(each)) for each in disks]
        plan = machine_capture.plan(repository, sources, "web", disk_format="qcow2")
        return machine_capture.run(plan, Task()).moment


def changed(repository: Repository, moment: MomentPoints, name: str, wish: str) -> dict[str, str]:
    """What the plan says of a point: the files that would change, and what would be in them."""
    plan = retarget.plan(repository, name, moment.points[name].id, wish)
    assert plan.sets == tuple(moment.moment.sets)
    return {f"{each.volume}:{each.path}": each.after for each in plan.edits.changes}


def machine(folder: Path, lines: str, root: str) -> list[Path]:
    """A disk with a Linux that calls its own root so and has that fstab, and one for its /home."""
    tree = systems.linux(folder / "tree", root=root, fstab=lines)
    built_in = "".join(f"kernel/drivers/{each}.ko\n" for each in DRIVERS)
    (tree / "lib/modules" / systems.VERSION / "modules.builtin").write_text(built_in)
    return [
        partitioned(folder / "root.img", ROOT, tree),
        partitioned(folder / "home.img", HOME),
    ]


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    """They are called what they happened to be called then."""
    lines = "/dev/sda1 / ext4 defaults 0 1\n/dev/sdb1 /home ext4 defaults 0 2\n"
    return machine(tmp_path, lines, "/dev/sda1")


@pytest.mark.parametrize("asked", ["root", "home"])
def test_what_another_of_its_disks_is_called_stays_its_name_whichever_is_asked_for(
    disks: list[Path], repository: Repository, asked: str
) -> None:
    moment = back_up(repository, disks)
    texts = changed(repository, moment, asked, "virtio-scsi")
    assert texts["p1:/etc/fstab"] == (
        f"UUID={ROOT} / ext4 defaults 0 1\nUUID={HOME} /home ext4 defaults 0 2\n"
    )


def test_a_root_on_the_second_disk_is_found_there(
    disks: list[Path], repository: Repository
) -> None:
    moment = back_up(repository, disks[::-1])
    texts = changed(repository, moment, "home", "virtio-scsi")
    assert f"UUID={HOME} /home" in texts["disk2:p1:/etc/fstab"]
    assert f"root=UUID={ROOT}" in texts["disk2:p1:/boot/grub/grub.cfg"]


def test_a_disk_of_the_machine_without_any_table_may_be_one_of_them(
    disks: list[Path], repository: Repository, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.img"
    bare.write_bytes(bytes(16 * MIB))
    run("mke2fs", "-q", "-t", "ext4", bare)
    moment = back_up(repository, [*disks, bare])
    assert f"UUID={HOME} /home" in changed(repository, moment, "bare", "virtio")["p1:/etc/fstab"]


def test_a_root_that_another_disk_has_a_copy_of_is_given_no_name_that_means_both(
    disks: list[Path], repository: Repository, tmp_path: Path
) -> None:
    """A disk and its clone: root=UUID= would start from whichever the kernel finds first."""
    clone = tmp_path / "clone.img"
    clone.write_bytes(disks[0].read_bytes())
    moment = back_up(repository, [disks[0], clone])
    with pytest.raises(NotRetargeted, match="might start from either"):
        changed(repository, moment, "root", "virtio")


def test_virt_v2v_is_given_no_system_that_lies_on_several_disks(
    disks: list[Path], repository: Repository
) -> None:
    moment = back_up(repository, disks[::-1])
    with pytest.raises(NotRetargeted, match="lies on several"):
        changed(repository, moment, "home", "virt-v2v")


def test_one_report_lies_beside_each_disk_and_any_of_the_points_boots_by_it(
    repository: Repository, tmp_path: Path
) -> None:
    lines = f"UUID={ROOT} / ext4 defaults 0 1\nUUID={HOME} /home ext4 defaults 0 2\n"
    home_first = machine(tmp_path, lines, f"UUID={ROOT}")[::-1]
    moment = back_up(repository, home_first)
    first = moment.points["home"]
    assert for_new_point(repository, "home", first.id, tmp_path / "sessions", Task()) == ()
    beside = {
        name: report.load(repository.set(name), point) for name, point in moment.points.items()
    }
    found = [each for each in beside.values() if each is not None]
    assert [(each.disks, each.changes) for each in found] == [(2, ()), (2, ())]
    hardware = {
        report.machines_hardware(repository, repository.set(name), point)
        for name, point in moment.points.items()
    }
    (one,) = hardware
    assert one is not None
    assert one.direct is not None
    assert one.direct.kernel.volume == "disk2:p1"

    # converted, its disk has an overlay in which nothing was changed
    other = moment.points["root"]
    publish_overlay(repository.set("root"), other, None, {}, Task())
    assert report.machines_hardware(repository, repository.set("home"), first) is None

    # as earlier versions have left it, which looked at each disk alone
    report.save(repository.set("home"), first, replace(found[0], disks=1))
    assert report.chosen_hardware(repository.set("home"), first) is None


def split(folder: Path) -> dict[str, Path]:
    """A Debian with systemd-boot on three disks: what starts it, with its kernel; root; /home."""
    image = debian.image(Debian(boot="systemd-boot", init="systemd", lab=True))
    disks = {name: folder / f"{name}.img" for name in ("start", "system", "home")}
    for name, number in (("start", 1), ("system", 2)):
        subprocess.run(["cp", "--sparse=always", image, disks[name]], check=True)
        disks[name].chmod(0o600)
        run("sfdisk", "-q", "--delete", disks[name], str(number))
        run("sfdisk", "-q", "--disk-id", disks[name], str(uuid.uuid4()))
    with disks["start"].open("r+b") as file:  # what was its root is nobody's
        file.seek(UEFI_ROOT_START * SECTOR)
        file.write(bytes(64 * MIB))
    partitioned(disks["home"], HOME)
    lines = (
        "/dev/sda1 / ext4 defaults 0 1",
        "/dev/sdb2 /boot/efi vfat umask=0077 0 2",
        "/dev/sdc1 /home ext4 defaults 0 2",
    )
    put(disks["system"], folder, {"/etc/fstab": "\n".join(lines) + "\n"})
    return disks


def put(disk: Path, folder: Path, texts: Mapping[str, str]) -> None:
    """Files in the ext4 of a Debian's root, in place of those that are there."""
    commands = ""
    for path, text in texts.items():
        file = folder / "put"
        file.write_text(text)
        commands += f"rm {path}\nwrite {file} {path}\n"
    volume = f"{disk}?offset={UEFI_ROOT_START * SECTOR}"
    run("debugfs", "-w", "-f", "-", volume, text=commands)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_debian_that_starts_from_one_disk_and_lies_on_two_others_boots_on_virtio(
    repository: Repository, tmp_path: Path
) -> None:
    moment = back_up(repository, list(split(tmp_path).values()))
    layers = {
        path: sha256(path)
        for name, point in moment.points.items()
        for path in [repository.set(name).disk_path(point)]
    }
    plan = retarget.plan(repository, "system", moment.points["system"].id, "virtio")
    made = retarget.run(plan, tmp_path / "sessions", Task())
    assert made is not None
    places = {
        f"{each.volume}:{each.path.rpartition('/')[2].partition('-')[0]}" for each in made.changes
    }
    assert places == {"disk2:p1:fstab", "disk2:p1:initrd.img", "p2:debian", "p2:initrd.img"}
    for name, point in moment.points.items():
        beside = report.load(repository.set(name), point)
        assert beside == replace(made, overlay=beside.overlay if beside else "")
    home, point = repository.set("home"), moment.points["home"]
    with vm.start_from_point(
        repository,
        home,
        point,
        sessions_folder=tmp_path / "sessions",
        hardware=report.machines_hardware(repository, home, point),
    ) as session:
        assert session.wait_for_text(f"{ALIVE} count=", LIMIT), session.console_text()
        said = session.console_text()
        assert session.wait(LIMIT)
    assert "root=/dev/vd" in said[said.index(f"{ALIVE} count=") :]
    assert re.search(r"Mounted \S*home\.mount", said)  # in colours
    assert layers == {path: sha256(path) for path in layers}
    none = retarget.plan(repository, "start", moment.points["start"].id, "none")
    assert retarget.run(none, tmp_path / "sessions", Task()) is None
    for name, each in moment.points.items():
        backup_set = repository.set(name)
        assert report.load(backup_set, each) is None
        with open_disk(backup_set.overlay_path(each), backup_set.settings.format) as overlay:
            assert not len(overlay.block_map().own_ranges())
