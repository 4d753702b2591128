"""Sessions: they boot what the chain holds, leave it as it is, and end however they are ended."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.guests import boot_sector, chains
from tests.guests import tiny_linux as tiny_linux_builder
from vdbackup.disks.formats import FORMATS
from vdbackup.disks.qemu_locks import is_open as used_by_vm
from vdbackup.errors import Cancelled, ParentError, RecoveryError
from vdbackup.guest.hardware import Controller, HardwareRequest
from vdbackup.jobs import CancelToken
from vdbackup.qemu import accelerator, qemu
from vdbackup.recovery.sessions import events, vm
from vdbackup.recovery.sessions.saved import SessionState, saved_sessions
from vdbackup.recovery.sessions.session import Session
from vdbackup.recovery.sessions.sessions import resume, status
from vdbackup.sources import demo_disk

LIMIT = 240.0  # seconds; the demo disk takes 0.3 and Linux 4, on a machine that does nothing else
TEXT_SCREEN = 0xB8000
ALL_HARDWARE = list(Controller)

Mapped = tuple[Session, Path]
"""A session, and the one layer of its chain that holds data."""


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """The overlay of a chain of two recovery points of the demo disk."""
    first, second = tmp_path / "first.img", tmp_path / "second.img"
    demo_disk.create(first, "first message")
    second.write_bytes(first.read_bytes())
    demo_disk.change(second, "second message", {"LETTERS/SECOND.TXT": b"changed"})
    return chains.make(tmp_path / "chain", first, second)


@pytest.fixture
def session(demo: Path, sessions: Path) -> Iterator[Session]:
    """The demo disk, booted; whatever a test does to it, it is discarded in the end."""
    with vm.start_session(demo, sessions_folder=sessions, title="demo") as running:
        yield running


def boot_raw(disk: Path, sessions: Path, hardware: str = "virtio") -> Session:
    return vm.start_session(
        disk,
        sessions_folder=sessions,
        title="disk",
        request=HardwareRequest(Controller(hardware)),
        disk_format="raw",
    )


def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds; fails the test after LIMIT."""
    waiting = threading.Event()
    for _ in range(int(LIMIT / 0.05)):
        if condition():
            return
        waiting.wait(0.05)
    pytest.fail("it never came true")


# ------------------------------------------------------------------------------- what it boots


@pytest.mark.parametrize("hardware", ALL_HARDWARE)
def test_message_of_the_point_comes_on_screen_and_serial_port(
    demo: Path, sessions: Path, tmp_path: Path, hardware: Controller
) -> None:
    before = chains.digests(demo)
    with vm.start_session(
        demo, sessions_folder=sessions, title="demo", request=HardwareRequest(hardware)
    ) as session:
        assert session.wait_for_text("second message\r\n", LIMIT)
        screen = tmp_path / "screen"
        session.execute("pmemsave", val=TEXT_SCREEN, size=160, filename=str(screen))
        assert screen.read_bytes()[::2].startswith(b"second message ")
        assert session.console_text() == "second message\n"
        assert session.error is None
    assert chains.digests(demo) == before


@pytest.mark.each_format
@pytest.mark.parametrize("disk_format", FORMATS)
def test_chain_of_any_format_boots_and_stays_as_it_is(
    tmp_path: Path, sessions: Path, disk_format: str
) -> None:
    first, second = tmp_path / "first.img", tmp_path / "second.img"
    demo_disk.create(first, "first message")
    second.write_bytes(first.read_bytes())
    demo_disk.change(second, "second message", {"LETTERS/SECOND.TXT": b"changed"})
    overlay = chains.make(tmp_path / "chain", first, second, disk_format=disk_format)
    before = chains.digests(overlay)
    with vm.start_session(
        overlay, sessions_folder=sessions, title="demo", disk_format=disk_format
    ) as session:
        assert session.wait_for_text("second message\r\n", LIMIT)
    assert chains.digests(overlay) == before
    assert list(sessions.iterdir()) == []


def test_earlier_point_boots_with_its_own_message(tmp_path: Path, sessions: Path) -> None:
    disk = tmp_path / "demo.img"
    demo_disk.create(disk, "the first of two")
    overlay = chains.make(tmp_path / "chain", disk)
    with vm.start_session(overlay, sessions_folder=sessions, title="demo") as session:
        assert session.wait_for_text("the first of two", LIMIT)


def test_disk_whose_message_cannot_be_read_says_so(tmp_path: Path, sessions: Path) -> None:
    disk = tmp_path / "demo.img"
    demo_disk.create(disk, "never read")
    os.truncate(disk, 128 * 512)  # the message's sector is the first one that is gone
    with boot_raw(disk, sessions, "ide") as session:  # the BIOS boots so small a disk here alone
        assert session.wait_for_text("message could not be read.", LIMIT)


@pytest.mark.parametrize(
    ("hardware", "disk_format"),
    [
        ("nvme", "vhdx"),
        # it is promoted, too, in test_linux_sessions.py
        pytest.param("virtio", "vmdk", marks=pytest.mark.long),
        # that of the demo boots in each format
        pytest.param("nvme", "vmdk", marks=pytest.mark.long),
        pytest.param("virtio", "vhd", marks=pytest.mark.long),
        pytest.param("virtio", "vhdx", marks=pytest.mark.long),
        # the BIOS loads the kernel word by word
        pytest.param("ide", "vmdk", marks=pytest.mark.long),
        pytest.param("virtio", "qcow2", marks=pytest.mark.long),
    ],
)
def test_linux_boots_from_an_incremental_point_and_writes_only_to_its_session(
    tiny_linux: Path, tmp_path: Path, sessions: Path, hardware: str, disk_format: str
) -> None:
    """The kernel is in the base alone, the count in the incremental."""
    later = tmp_path / "later.img"
    later.write_bytes(tiny_linux.read_bytes())
    tiny_linux_builder.set_boot_count(later, 41)
    overlay = chains.make(tmp_path / "chain", tiny_linux, later, disk_format=disk_format)
    before = chains.digests(overlay)
    for _ in range(2 if (hardware, disk_format) == ("virtio", "vmdk") else 1):
        with vm.start_session(
            overlay,
            sessions_folder=sessions,
            title="Linux",
            request=HardwareRequest(Controller(hardware)),
            disk_format=disk_format,
        ) as session:
            assert session.wait_for_text(tiny_linux_builder.ALIVE, LIMIT), session.console_text()
            assert session.wait(LIMIT)  # it powers itself off
            assert not session.running
            assert "count=42" in session.console_text()
            assert (session.folder / "session.qcow2").stat().st_size > 256 << 10
    assert chains.digests(overlay) == before


def test_two_sessions_of_one_point_run_at_once(demo: Path, sessions: Path) -> None:
    with (
        vm.start_session(demo, sessions_folder=sessions, title="one") as one,
        vm.start_session(demo, sessions_folder=sessions, title="two") as two,
    ):
        assert one.wait_for_text("second message", LIMIT)
        assert two.wait_for_text("second message", LIMIT)
        assert one.id != two.id


def test_names_with_commas_spaces_and_quotes_are_fine(demo: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'a, "b" {c}=ü'
    demo.parent.rename(odd)
    with vm.start_session(
        odd / demo.name, sessions_folder=odd / "x,y", title='laptop, "sda" {1}'
    ) as session:
        assert session.wait_for_text("second message", LIMIT)
        assert session.execute("query-name") == {"name": 'laptop, "sda" {1}'}


# ------------------------------------------------------------------------- what QEMU is given


def test_qemu_opens_the_chain_for_reading_and_nothing_else(session: Session, demo: Path) -> None:
    nodes = session.execute("query-named-block-nodes")
    opened = {node["file"]: node["ro"] for node in nodes if node["drv"] == "file"}
    layers = [demo.with_name(name) for name in ("0.vmdk", "1.vmdk", "overlay.vmdk")]
    disk = session.folder / "session.qcow2"
    assert opened == {**{str(layer): True for layer in layers}, str(disk): False}


@pytest.fixture(params=["vhd", "vhdx"])
def mapped(request: pytest.FixtureRequest, tmp_path: Path, sessions: Path) -> Iterator[Mapped]:
    """The demo disk, booted from a chain in a format of which QEMU reads no children."""
    disk = tmp_path / "demo.img"
    demo_disk.create(disk, "mapped")
    overlay = chains.make(tmp_path / "chain", disk, disk_format=request.param)
    with vm.start_session(
        overlay, sessions_folder=sessions, title="demo", disk_format=request.param
    ) as running:
        yield running, overlay.with_name(f"0.{request.param}")


def test_chain_that_qemu_does_not_read_is_given_to_it_as_bytes_to_be_read(mapped: Mapped) -> None:
    session, layer = mapped
    nodes = session.execute("query-named-block-nodes")
    assert {node["drv"] for node in nodes} == {"qcow2", "vmdk", "file"}
    files = {Path(node["file"]).name: node["ro"] for node in nodes if node["drv"] == "file"}
    assert files.pop("session.qcow2") is False
    assert files == {"map.bin": True, "map.vmdk": True, "layer0": True, "layer1": True}
    pid = json.loads((session.folder / "session.json").read_text())["pid"]
    flags = [
        int((Path(f"/proc/{pid}/fdinfo") / link.name).read_text().split("flags:")[1].split()[0], 8)
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.exists() and link.samefile(layer)
    ]
    assert flags
    assert all(flag & os.O_ACCMODE == os.O_RDONLY for flag in flags)


def test_layers_behind_a_map_are_seen_to_be_in_use(mapped: Mapped) -> None:
    session, layer = mapped
    assert used_by_vm(layer)
    session.kill()
    assert not used_by_vm(layer)


def test_session_disk_over_a_map_can_be_read_by_itself(mapped: Mapped, tmp_path: Path) -> None:
    session, _ = mapped
    assert session.wait_for_text("mapped", LIMIT)
    session.kill()
    disk = session.folder / "session.qcow2"
    command = ["qemu-img", "compare", str(disk), str(tmp_path / "demo.img")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_guest_has_no_network(session: Session) -> None:
    assert session.execute("query-rx-filter") == []
    assert session.execute("human-monitor-command", **{"command-line": "info network"}) == ""


def test_qemu_runs_in_its_sandbox(session: Session) -> None:
    pid = json.loads((session.folder / "session.json").read_text())["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Seccomp:\t2" in status


def test_sectors_are_as_large_as_the_source_had_them(demo: Path, sessions: Path) -> None:
    wish = HardwareRequest(Controller.VIRTIO)
    with vm.start_session(
        demo, sessions_folder=sessions, title="4K", sector_size=4096, request=wish
    ) as session:
        (disk,) = [
            path
            for device in session.execute("qom-list", path="/machine/peripheral-anon")
            if device["type"] == "child<virtio-blk-pci>"
            and (path := f"/machine/peripheral-anon/{device['name']}")
        ]
        for unit in ("logical_block_size", "physical_block_size"):
            assert session.execute("qom-get", path=disk, property=unit) == 4096


def test_accelerator_is_the_one_that_runs_here(session: Session) -> None:
    choice = accelerator.choose()
    assert (session.accelerator, session.notice) == (choice.accelerator, choice.notice)
    enabled = session.execute("query-kvm")["enabled"]
    assert enabled == (session.accelerator is qemu.Accelerator.KVM)


# --------------------------------------------------------------------------------- its folder


def test_folder_is_private_and_says_what_runs(session: Session, demo: Path) -> None:
    record = json.loads((session.folder / "session.json").read_text())
    assert stat.S_IMODE(session.folder.stat().st_mode) == 0o700
    assert record["id"] == session.id == session.folder.name
    assert record["title"] == session.title == "demo"
    assert record["overlay"] == str(demo)
    assert datetime.now(UTC) - datetime.fromisoformat(record["started"]) < timedelta(minutes=5)
    assert b"qemu-system" in Path(f"/proc/{record['pid']}/cmdline").read_bytes()


def test_folder_is_gone_after_the_session(demo: Path, sessions: Path) -> None:
    with vm.start_session(demo, sessions_folder=sessions, title="demo") as session:
        assert [folder.name for folder in sessions.iterdir()] == [session.id]
    assert list(sessions.iterdir()) == []
    session.discard()
    assert session.console_text() == ""


def test_ended_session_keeps_its_folder_until_it_is_discarded(
    session: Session, sessions: Path
) -> None:
    assert session.wait_for_text("second message", LIMIT)
    session.kill()
    assert session.console_text() == "second message\n"
    assert (session.folder / "session.qcow2").exists()
    session.discard()
    assert list(sessions.iterdir()) == []


# -------------------------------------------------------------------------------- waiting


def test_text_that_came_before_the_call_is_found(session: Session) -> None:
    assert session.wait_for_text("second message", LIMIT)
    assert session.wait_for_text("message\r\n", 0)
    assert not session.wait_for_text("no such text", 0.2)


def test_waiting_is_cancelled(session: Session) -> None:
    cancel = CancelToken()
    threading.Timer(0.2, cancel.cancel).start()
    with pytest.raises(Cancelled):
        session.wait_for_text("no such text", LIMIT, cancel)
    with pytest.raises(Cancelled):
        session.wait(LIMIT, cancel)
    assert session.running


def test_another_thread_ends_what_one_waits_for(session: Session) -> None:
    assert not session.wait(0.05)
    threading.Timer(0.2, session.kill).start()
    assert not session.wait_for_text("no such text", LIMIT)
    assert session.wait(0)
    assert not session.running
    assert session.error is None


def test_machine_that_ignores_the_power_button_is_ended(session: Session) -> None:
    session.power_off(grace=0.2)
    assert not session.running
    assert session.error is None
    session.power_off()
    session.kill()


# ------------------------------------------------------------------------------- the screen


def test_screenshot_is_a_png_of_the_screen(session: Session, tmp_path: Path) -> None:
    assert session.wait_for_text("second message", LIMIT)
    picture = tmp_path / "picture.png"
    session.screenshot(picture)
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(content[16:20], "big") == 720  # 80 characters of 9 points
    assert not list(tmp_path.glob("*.partial"))


def test_screenshot_that_cannot_be_made_is_said(session: Session, tmp_path: Path) -> None:
    with pytest.raises(RecoveryError, match="No such file or directory"):
        session.screenshot(tmp_path / "nowhere" / "picture.png")
    session.kill()
    with pytest.raises(RecoveryError, match="has ended"):
        session.screenshot(tmp_path / "picture.png")


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A screen that nobody sees; the file holds its pixels (XWD)."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24"]
    command += ["-fbdir", str(tmp_path), "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL) as server:
        os.close(write)
        with os.fdopen(read) as answer:
            monkeypatch.setenv("DISPLAY", f":{answer.readline().strip()}")
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        yield tmp_path / "Xvfb_screen0"
        server.terminate()


def test_display_opens_a_window(demo: Path, sessions: Path, screen: Path) -> None:
    empty = screen.read_bytes()
    with vm.start_session(demo, sessions_folder=sessions, title="demo", display=True) as session:
        assert session.wait_for_text("second message", LIMIT)
        until(lambda: screen.read_bytes() != empty)
        assert session.execute("query-display-options")["type"] in ("gtk", "sdl")


def test_without_a_screen_no_window_is_tried(
    demo: Path, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RecoveryError, match="no screen"):
        vm.start_session(demo, sessions_folder=sessions, title="demo", display=True)
    assert not sessions.exists()


def test_missing_window_of_qemu_is_said_with_what_to_install(
    demo: Path, sessions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / qemu.SYSTEM
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf 'Available display backend types:\\nnone\\ncurses\\n'\n")
    program.chmod(0o755)
    accelerator.choose()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(RecoveryError, match="sudo apt install qemu-system-gui"):
        vm.start_session(demo, sessions_folder=sessions, title="demo", display=True)


# ------------------------------------------------------------------------------ what goes wrong


def test_guest_that_crashes_is_an_error_and_its_screen_stays(
    tmp_path: Path, sessions: Path
) -> None:
    disk = boot_sector.make(tmp_path / "crash.img", boot_sector.CRASH)
    with boot_raw(disk, sessions) as session:
        with pytest.raises(RecoveryError, match="operating system in disk has crashed"):
            session.wait(LIMIT)
        assert session.running
        session.screenshot(tmp_path / "crash.png")
        with pytest.raises(RecoveryError, match="has crashed"):
            session.wait_for_text("anything", LIMIT)
        session.power_off()
        assert not session.running


SMALL, LARGE = 20 << 20, 32 << 20
"""Bytes that QEMU's files may have, and what a guest writes in all.

QEMU 10 has the memory of its screen (16 MiB) in a file of memory, for which the limit counts, too.
"""


def writer(tmp_path: Path) -> Path:
    """A disk whose guest writes more than SMALL."""
    instructions = boot_sector.write_everywhere(LARGE)
    return boot_sector.make(tmp_path / "writer.img", instructions, LARGE)


def test_disk_that_cannot_be_written_pauses_the_guest_and_is_said(
    tmp_path: Path, sessions: Path
) -> None:
    disk = writer(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, before[1]))
    try:
        session = boot_raw(disk, sessions)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with session:
        with pytest.raises(RecoveryError, match=r"cannot be written \(File too large\)"):
            session.wait(LIMIT)
        assert session.execute("query-status")["status"] == "io-error"


def test_a_paused_guest_goes_on_when_there_is_space(tmp_path: Path, sessions: Path) -> None:
    """The limit on the size of QEMU's files stands for a disk that is full, then is not."""
    disk = writer(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, before[1]))
    try:
        session = boot_raw(disk, sessions)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with session:
        until(lambda: session.paused)
        (saved,) = saved_sessions(sessions)
        assert status(saved) == "paused"
        session.resume()
        until(lambda: session.paused)  # there is no space yet
        assert saved.record.pid is not None
        resource.prlimit(saved.record.pid, resource.RLIMIT_FSIZE, before)
        resume(saved)  # as another program does
        written = session.folder / "session.qcow2"
        until(lambda: written.stat().st_size > LARGE)
        assert (session.paused, session.error) == (False, None)
        assert session.execute("query-status")["running"]


def test_nvme_is_paused_before_its_storage_is_full(
    demo: Path, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU pauses every other controller's guest itself."""
    free = [1 << 40]
    usage = shutil.disk_usage(demo)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=free[0]))
    with vm.start_session(
        demo,
        sessions_folder=sessions,
        title="demo",
        request=HardwareRequest(controller=Controller.NVME),
    ) as session:
        assert session.wait_for_text("second message", LIMIT)
        free[0] = 1 << 20
        until(lambda: session.paused and session.error)
        with pytest.raises(RecoveryError, match="no space for what it writes"):
            session.wait(LIMIT)
        assert session.execute("query-status")["status"] == "paused"
        free[0] = 1 << 40
        session.resume()
        until(lambda: not session.paused)
        assert session.execute("query-status")["running"]


@pytest.mark.parametrize(
    ("event", "data", "said"),
    [
        ("STOP", {"running": False, "status": "internal-error"}, "cannot run laptop"),
        (
            "BLOCK_IO_ERROR",
            {"operation": "write", "action": "stop", "nospace": True, "reason": "No space left"},
            "no space for what it writes",
        ),
        (
            "BLOCK_IO_ERROR",
            {"operation": "read", "action": "stop", "nospace": False, "reason": "I/O error"},
            r"cannot be read \(I/O error\)",
        ),
        ("STOP", {"running": False, "status": "paused"}, None),
        ("BLOCK_IO_ERROR", {"operation": "read", "action": "report", "reason": "x"}, None),
        ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}, None),
    ],
)
def test_events_that_tell_of_trouble_become_errors(
    event: str, data: dict[str, object], said: str | None
) -> None:
    error = events.trouble("laptop", event, data)
    if said is None:
        assert error is None
    else:
        with pytest.raises(RecoveryError, match=said):
            raise error or AssertionError


def test_qemu_that_dies_is_an_error(session: Session) -> None:
    pid = json.loads((session.folder / "session.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RecoveryError, match="which ran demo, has crashed"):
        session.wait(LIMIT)
    assert not session.running
    with pytest.raises(RecoveryError, match="has ended"):
        session.execute("query-status")


def test_qemu_that_does_not_start_gives_its_own_reason(demo: Path, sessions: Path) -> None:
    with pytest.raises(RecoveryError, match=r"could not be started\. qemu-system-x86_64 says: "):
        vm.start_session(
            demo,
            sessions_folder=sessions,
            title="demo",
            request=HardwareRequest(memory_mib=1 << 30),
        )
    assert list(sessions.iterdir()) == []


def test_missing_qemu_is_said_with_what_to_install(
    demo: Path, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator.choose()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RecoveryError, match="sudo apt install qemu-system-x86 qemu-utils"):
        vm.start_session(demo, sessions_folder=sessions, title="demo")
    assert not sessions.exists() or list(sessions.iterdir()) == []


def test_chain_that_is_not_whole_is_refused_before_anything_is_made(
    demo: Path, sessions: Path
) -> None:
    demo.with_name("0.vmdk").unlink()
    with pytest.raises(ParentError):
        vm.start_session(demo, sessions_folder=sessions, title="demo")
    with pytest.raises(RecoveryError, match=r"cannot be read: No such file"):
        vm.start_session(demo.with_name("gone.vmdk"), sessions_folder=sessions, title="demo")
    assert not sessions.exists()


def test_hardware_that_has_no_such_sectors_is_refused(demo: Path, sessions: Path) -> None:
    wish = HardwareRequest(Controller.IDE)
    with pytest.raises(RecoveryError, match="no ide disk with sectors of 4096 bytes"):
        vm.start_session(
            demo, sessions_folder=sessions, title="demo", request=wish, sector_size=4096
        )


def test_folder_that_cannot_be_made_is_said(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecoveryError, match="Not a directory"):
        vm.start_session(demo, sessions_folder=tmp_path / "file", title="demo")


# ------------------------------------------------------------------------------ after a crash


OWNER = """
import sys
from pathlib import Path
from vdbackup.recovery.sessions import vm
vm.start_session(Path(sys.argv[1]), sessions_folder=Path(sys.argv[2]), title="orphan")
print("started", flush=True)
sys.stdin.read()
"""


def test_session_of_a_crashed_program_is_left_over_and_can_be_discarded(
    demo: Path, sessions: Path
) -> None:
    command = [sys.executable, "-c", OWNER, str(demo), str(sessions)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"started\n"
        (its,) = saved_sessions(sessions)
        assert its.state is SessionState.RUNNING
        with pytest.raises(RecoveryError, match="belongs to a program that is running"):
            its.discard()
        owner.kill()
    (left,) = saved_sessions(sessions)
    assert (left.title, left.record.overlay) == ("orphan", demo)
    assert left.state is SessionState.UNATTENDED

    left.discard()

    assert not left.folder.exists()
    assert saved_sessions(sessions) == []
    assert left.record.pid is not None
    assert not _runs(left.record.pid)


def test_session_whose_record_a_power_cut_has_emptied_can_be_discarded(sessions: Path) -> None:
    folder = sessions / "20250101-000000-abcdef"
    folder.mkdir(parents=True)
    (folder / "session.json").write_text("")
    (left,) = saved_sessions(sessions)
    assert (left.id, left.title, left.running) == (folder.name, folder.name, False)
    left.discard()
    assert list(sessions.iterdir()) == []


def test_pid_that_belongs_to_another_program_now_is_left_alone(sessions: Path) -> None:
    folder = sessions / "20250101-000000-abcdef"
    folder.mkdir(parents=True)
    record = {"pid": os.getpid(), "title": "old", "started": "2025-01-01T00:00:00+00:00"}
    (folder / "session.json").write_text(json.dumps(record))
    (left,) = saved_sessions(sessions)
    assert not left.running
    left.discard()  # and this test goes on
    assert saved_sessions(sessions) == []


def _runs(pid: int) -> bool:
    """Whether process `pid` is there and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
