"""Boot tests: what comes up passes, what does not says where it stopped, and nobody waits."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from tests import running
from tests.backup.lab import Lab
from tests.guests import boot_sector, cache, debian
from tests.guests import tiny_linux as tiny_linux_builder
from vdbackup.disks.qemu_locks import is_open as used_by_vm
from vdbackup.errors import Cancelled, NoSystem, UsageError
from vdbackup.guest import hardware
from vdbackup.guest.hardware import Controller
from vdbackup.jobs import CancelToken, Job, JobState, Progress, Task
from vdbackup.recovery.boot_test import boot_test, readiness
from vdbackup.recovery.boot_test.boot_test import BootTestOptions
from vdbackup.recovery.retarget.policy import for_new_point
from vdbackup.repository.model import BootStage, BootTest, RecoveryPoint
from vdbackup.sources import demo_disk

LIMIT = 200.0  # seconds; a translated machine at the lowest priority on a busy computer


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def demo(lab: Lab) -> Lab:
    """A point of the demo disk."""
    lab.image.unlink()
    demo_disk.create(lab.image, "the demo's message")
    lab.backup()
    return lab


def wish(
    lab: Lab,
    sign: str = "auto",
    limit: float = LIMIT,
    controller: Controller | None = None,
    memory_mib: int | None = 128,
) -> BootTestOptions:
    wanted = hardware.HardwareRequest(controller, memory_mib=memory_mib)
    return BootTestOptions(lab.folder / "sessions", sign, limit, wanted)


def outcome(lab: Lab, sign: str = "auto", limit: float = LIMIT, **more: Any) -> BootTest:
    """The result of testing the newest point; it is what the manifest says."""
    point = lab.set.points[-1]
    said = boot_test.run(lab.repository, "disk", point.id, wish(lab, sign, limit, **more), Task())
    assert newest(lab).boot_tested == said
    assert not list(lab.folder.glob("sessions/*"))
    return said


def newest(lab: Lab) -> RecoveryPoint:
    return lab.set.points[-1]


def picture(lab: Lab) -> Path:
    return lab.set.folder / newest(lab).picture


def backed_up(lab: Lab, disk: Path) -> Lab:
    shutil.copyfile(disk, lab.image)
    lab.backup()
    return lab


# --------------------------------------------------------------------------------- what comes up


def test_a_screen_that_has_settled_is_a_sign_of_life_though_its_cursor_blinks(demo: Lab) -> None:
    before = demo.files
    said = outcome(demo)
    assert said.ok
    assert said.stage is BootStage.LOGIN
    assert 0 < said.seconds < LIMIT
    assert said.sentence.startswith("Its screen has not changed for")
    assert picture(demo).read_bytes().startswith(b"\x89PNG")
    changed = {name for name, what in demo.files.items() if before.get(name) != what}
    assert changed == {"disk/0001-full.json", "disk/0001-boot.png"}


def test_a_text_on_the_console_is_a_sign_of_life(demo: Lab) -> None:
    said = outcome(demo, "text:the demo's")
    assert said.ok
    assert said.sentence == 'It said "the demo\'s".'
    assert not outcome(demo, r"regex:^nothing \d+", 3).ok


@pytest.mark.long  # a Linux boots in cli/test_boot.py, and here one that does not come up
def test_a_linux_comes_up(lab: Lab, tiny_linux: Path) -> None:
    said = outcome(backed_up(lab, tiny_linux), f"text:{tiny_linux_builder.ALIVE}")
    assert said.ok


# -------------------------------------------------------------------------- where it has stopped


def test_a_disk_without_a_boot_loader_stops_in_the_firmware(lab: Lab) -> None:
    lab.backup()
    said = outcome(lab, controller=Controller.AHCI)  # who names hardware wants it tried
    assert not said.ok
    assert said.stage is BootStage.FIRMWARE
    assert said.sentence == "The firmware found nothing on the disk that it could start."
    assert picture(lab).read_bytes().startswith(b"\x89PNG")


def test_a_disk_of_data_is_not_tested_and_its_points_are_not_marked(lab: Lab) -> None:
    lab.backup()
    for _ in range(2):
        point = newest(lab)
        with pytest.raises(NoSystem, match="no system to boot"):
            boot_test.run(lab.repository, "disk", point.id, wish(lab), Task())
        assert newest(lab).boot_tested is None
        lab.backup()


def test_a_disk_that_has_lost_its_system_does_not_boot(demo: Lab, tmp_path: Path) -> None:
    point = newest(demo)
    for_new_point(demo.repository, "disk", point.id, tmp_path / "s", Task())
    with demo.image.open("rb+") as file:
        file.write(bytes(512))
    demo.backup()
    assert outcome(demo).stage is BootStage.FIRMWARE


def test_a_machine_that_crashes_says_so(lab: Lab, tmp_path: Path) -> None:
    said = outcome(backed_up(lab, boot_sector.make(tmp_path / "crash.img", boot_sector.CRASH)))
    assert not said.ok
    assert "has crashed" in said.sentence


def test_a_kernel_without_a_root_stops_with_its_own_words(
    lab: Lab, tiny_linux: Path, tmp_path: Path
) -> None:
    disk, configuration = tmp_path / "linux.img", tmp_path / "syslinux.cfg"
    disk.write_bytes(tiny_linux.read_bytes())
    configuration.write_text(
        "DEFAULT tiny\nLABEL tiny\n KERNEL vmlinuz\n"
        " APPEND console=ttyS0 no_timer_check root=/dev/vda9\n"
    )
    where = f"{disk}@@{tiny_linux_builder.BOOT_START * 512}"
    cache.run("mcopy", "-o", "-i", where, configuration, "::syslinux.cfg")
    said = outcome(backed_up(lab, disk))
    assert not said.ok
    assert said.stage is BootStage.KERNEL
    assert "VFS: Unable to mount root fs" in said.sentence


@pytest.mark.parametrize(
    "instructions", ["cli", pytest.param("stuck: jmp stuck", marks=pytest.mark.long)]
)
def test_a_machine_that_hangs_fails_at_the_limit(
    lab: Lab, tmp_path: Path, instructions: str
) -> None:
    said = outcome(backed_up(lab, boot_sector.make(tmp_path / "hang.img", instructions)), limit=8)
    assert not said.ok
    assert said.seconds >= 8
    assert said.stage is BootStage.FIRMWARE
    assert said.sentence.startswith("It showed no sign of life within 8 s.")
    assert "Booting from Hard Disk" in said.sentence


def test_a_screen_at_rest_is_no_sign_of_life_while_the_processor_is_busy(
    lab: Lab, tmp_path: Path
) -> None:
    busy = boot_sector.make(tmp_path / "busy.img", _SAYS_SOMETHING + "\nstuck: jmp stuck")
    said = outcome(backed_up(lab, busy), limit=readiness.SETTLED_TEXT + 5)
    assert not said.ok
    assert "Something" in said.sentence


_SAYS_SOMETHING = """
    mov si, words
next: lodsb
    mov ah, 0x0E        ; write a character through the BIOS
    int 0x10
    cmp al, 0
    jne next
    jmp after
words: db 13, 10, "Something", 0
after:
"""


def test_a_machine_that_switches_itself_off_has_not_come_up(lab: Lab, tmp_path: Path) -> None:
    ends = boot_sector.say("[    0.000000] Linux version 6.1.0") + boot_sector.SWITCH_OFF
    said = outcome(backed_up(lab, boot_sector.make(tmp_path / "ends.img", ends)), "login")
    assert not said.ok
    assert said.stage is BootStage.KERNEL
    assert said.sentence == (
        "It has switched itself off. Its last words: '[    0.000000] Linux version 6.1.0'."
    )


@pytest.mark.long  # the same of a real one
def test_a_linux_that_switches_itself_off_has_not_come_up(lab: Lab, tiny_linux: Path) -> None:
    said = outcome(backed_up(lab, tiny_linux), "login")
    assert not said.ok
    assert said.stage in (BootStage.KERNEL, BootStage.SYSTEM)
    assert said.sentence.startswith("It has switched itself off. Its last words: ")


# ------------------------------------------------------------------------- it is in nobody's way


def test_a_test_gives_way_to_a_backup_and_starts_anew(lab: Lab, tmp_path: Path) -> None:
    backed_up(lab, boot_sector.make(tmp_path / "hang.img", "cli"))
    layer = lab.layer(newest(lab))
    seen = Phases()
    job = Job(
        "test",
        lambda task: boot_test.run(lab.repository, "disk", newest(lab).id, wish(lab), task),
    )
    thread = threading.Thread(target=job.run, args=(seen.follow,))
    thread.start()
    seen.wait_for("Booting: firmware")
    assert used_by_vm(layer)
    with lab.repository.lock("backing up"):
        seen.wait_for("The repository is being written to, and a boot test gives way to that.")
        assert job.state is JobState.WAITING
        assert not used_by_vm(layer)
        assert not list(lab.folder.glob("sessions/*"))
    seen.wait_for("Booting: firmware")
    job.cancel.cancel()
    thread.join()
    assert job.state is JobState.CANCELLED
    assert newest(lab).boot_tested is None


def test_the_machine_gives_way_to_other_programs(lab: Lab, tmp_path: Path) -> None:
    backed_up(lab, boot_sector.make(tmp_path / "hang.img", "cli"))
    cancel = CancelToken()
    nice, idle = [], []

    def look(progress: Progress) -> None:
        if progress.phase.startswith("Booting"):
            (session,) = lab.folder.glob("sessions/*")
            for process in running.naming(session):
                nice.append((process / "stat").read_text().rpartition(") ")[2].split()[16])
                idle.append(cache.run("ionice", "-p", process.name).strip())
            cancel.cancel()

    with pytest.raises(Cancelled):
        boot_test.run(lab.repository, "disk", newest(lab).id, wish(lab), Task(look, cancel))
    assert nice == [str(min(os.nice(0) + 10, 19))]  # beyond that of who runs the tests
    assert idle == ["idle"]


def test_a_merge_does_not_fail_for_a_test_that_gives_way(lab: Lab, tmp_path: Path) -> None:
    backed_up(lab, boot_sector.make(tmp_path / "hang.img", "cli"))
    lab.poke(1 << 20, b"changed")
    lab.backup()
    seen = Phases()
    job = Job(
        "test",
        lambda task: boot_test.run(lab.repository, "disk", newest(lab).id, wish(lab), task),
    )
    thread = threading.Thread(target=job.run, args=(seen.follow,))
    thread.start()
    seen.wait_for("Booting: firmware")
    merged = lab.merge(newest(lab))
    seen.wait_for("Booting: firmware")
    job.cancel.cancel()
    thread.join()
    assert [point.id for point in lab.set.points] == [merged.id]


class Phases:
    """What a job has reported, for another thread to wait for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._new: list[str] = []

    def follow(self, progress: Progress) -> None:
        with self._changed:
            self._new.append(progress.phase)
            self._changed.notify_all()

    def wait_for(self, phase: str) -> None:
        """Return when it has been reported again."""
        with self._changed:
            self._new.clear()
            assert self._changed.wait_for(lambda: phase in self._new, LIMIT), self._new


# --------------------------------------------------------------------------- what becomes of it


def test_the_result_waits_until_nobody_writes_to_the_repository(demo: Lab) -> None:
    test = BootTest(boot_test.now(), ok=True, seconds=3.0, stage=BootStage.LOGIN, sentence="Up.")
    with demo.repository.lock("backing up"):
        thread = threading.Thread(
            target=boot_test.record,
            args=(demo.repository, "disk", newest(demo).id, test, b"picture", CancelToken()),
        )
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
    thread.join()
    assert newest(demo).boot_tested == test
    assert picture(demo).read_bytes() == b"picture"
    assert picture(demo).stat().st_mode & 0o777 == 0o600


def test_a_picture_goes_with_its_point_and_with_a_merge(demo: Lab) -> None:
    for number in (2, 3):
        demo.poke(1 << 20, bytes([number]) * 65536)
        demo.backup()
    for point in demo.set.points:
        test = BootTest(boot_test.now(), ok=True, sentence="Up.")
        boot_test.record(demo.repository, "disk", point.id, test, b"picture", CancelToken())
    assert pictures(demo) == ["0001-boot.png", "0002-boot.png", "0003-boot.png"]
    merged = demo.merge(demo.set.points[1])
    assert pictures(demo) == ["0003-boot.png"], "the merged point has not been tested"
    assert merged.boot_tested is None
    demo.delete(demo.set.points[-1])
    assert pictures(demo) == []
    demo.check_files()


def pictures(lab: Lab) -> list[str]:
    return sorted(path.name for path in lab.set.folder.glob("*.png"))


def test_a_kernel_that_was_given_too_little_time_is_tried_again(lab: Lab) -> None:
    words = "Kernel panic - not syncing: IO-APIC + timer doesn't work!"
    lab.image.unlink()
    demo_disk.create(lab.image, words)
    lab.backup()
    phases: list[str] = []
    wish = boot_test.BootTestOptions(lab.folder / "sessions", time_limit=LIMIT)
    said = boot_test.run(
        lab.repository,
        "disk",
        newest(lab).id,
        wish,
        Task(lambda progress: phases.append(progress.phase)),
    )
    assert not said.ok
    assert phases.count("Starting") == boot_test.MAX_TRIES


def test_an_unknown_sign_of_readiness_is_refused(demo: Lab) -> None:
    for words in ("smoke", "text:", "regex:("):
        with pytest.raises(UsageError):
            outcome(demo, words)


# ------------------------------------------------------------------------------ a whole Debian


@pytest.fixture
def whole_debian() -> Path:
    """Built before the test's own time begins."""
    return debian.image(debian.Debian())


@pytest.mark.long
def test_a_debian_comes_up(lab: Lab, whole_debian: Path) -> None:
    backed_up(lab, whole_debian)
    assert outcome(lab, f"text:{debian.ALIVE} count=1", 600, memory_mib=512).ok


def test_a_debian_without_its_root_stops_in_its_boot_loader(lab: Lab, whole_debian: Path) -> None:
    backed_up(lab, whole_debian)
    lab.poke(debian.Debian().root_start * debian.SECTOR, 1 << 20)  # the superblock goes
    lab.backup()
    said = outcome(lab, limit=600)
    assert not said.ok
    assert said.stage is BootStage.LOADER
    assert said.sentence.startswith("GRUB does not find what it should start")


@pytest.mark.long
def test_a_debian_without_a_driver_for_its_disk_stops_in_its_initramfs(lab: Lab) -> None:
    backed_up(lab, debian.image(debian.Debian()))
    said = outcome(lab, limit=900, memory_mib=512, controller=Controller.VIRTIO)
    assert not said.ok
    assert said.stage is BootStage.SYSTEM
    assert "/dev/sda1 does not exist" in said.sentence


@pytest.mark.long
@pytest.mark.parametrize("sign", ["auto", "agent"])
def test_a_debian_with_systemd_asks_for_a_login_and_its_agent_answers(lab: Lab, sign: str) -> None:
    disk = debian.image(debian.Debian(init="systemd", stay=True))
    said = outcome(backed_up(lab, disk), sign, 900, memory_mib=None)
    assert said.ok, said
