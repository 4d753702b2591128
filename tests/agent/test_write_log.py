"""A volume's log of writes is put in and taken out by tables of device-mapper.

The kernel of these tests knows no device-mapper: what it is told is kept by a stand-in here. It is
real in tests/backup/in_use/test_every_write.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.test_messages import Nothing
from vdbackup.agent import device_mapper, loop_devices, messages, stacking, write_log
from vdbackup.agent.device_mapper import Target
from vdbackup.agent.permission import Everything
from vdbackup.agent.service import Service, serve
from vdbackup.agent.write_log import Logged
from vdbackup.errors import LogRefused

VOLUME, BELOW, LOOP = os.makedev(254, 0), os.makedev(254, 7), os.makedev(7, 3)
LINEAR = Target(0, 131_072, "linear", "253:16 2048")
LOGGED = Target(0, 131_072, "log-writes", "254:7 7:3")
KEY = "0123456789abcdef" * 4


class Kernel:
    """Keeps the tables of devices: those that they work by, and those that were loaded.

    Attributes:
        refuses: what is asked for in vain.
        asked: all that changes something, in its order.
    """

    def __init__(self, sys: Path, *targets: Target) -> None:
        self.tables: dict[int, list[Target]] = {VOLUME: list(targets)}
        self.loads: dict[int, list[Target]] = {}
        self.refuses = ""
        self.asked: list[tuple[str, int]] = []
        self._sys = sys
        self._show("254:0", "LVM-x")

    def _show(self, number: str, unique: str) -> None:
        place = self._sys / number / "dm"
        place.mkdir(parents=True)
        (place / "uuid").write_text(f"{unique}\n")

    def _told(self, what: str, number: int) -> None:
        self.asked.append((what, number))
        if what == self.refuses:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def table(self, number: int) -> list[Target]:
        return self.tables.get(number, [])

    def loaded(self, number: int) -> list[Target]:
        return self.loads.get(number, [])

    def create(self, name: str) -> int:
        self._told("create", BELOW)
        self._show("254:7", name)
        return BELOW

    def load(self, number: int, targets: Sequence[Target]) -> None:
        self._told(f"load {targets[0].kind}", number)
        self.loads[number] = list(targets)

    def resume(self, number: int, *, unseen: bool = False) -> None:
        loaded = self.loads.pop(number)
        self._told("resume" + " unseen" * unseen, number)
        self.tables[number] = loaded

    def clear(self, number: int) -> None:
        self._told("clear", number)
        del self.loads[number]

    def remove(self, number: int) -> None:
        self._told("remove", number)
        self.tables.pop(number, None)
        shutil.rmtree(self._sys / "254:7")  # as the kernel does


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    sys = tmp_path / "sys"
    kernel = Kernel(sys, LINEAR)
    for name in ("table", "loaded", "create", "load", "resume", "clear", "remove"):
        monkeypatch.setattr(device_mapper, name, getattr(kernel, name))
    for module in ("write_log", "block_devices"):
        monkeypatch.setattr(f"vdbackup.agent.{module}.SYS_BLOCK", sys)

    @contextmanager
    def over(_: int, __: int) -> Iterator[loop_devices.Loop]:
        yield loop_devices.Loop(-1, LOOP)

    monkeypatch.setattr(loop_devices, "over", over)
    # this machine's own disks may bear those numbers
    monkeypatch.setattr(stacking, "stored_on", lambda _: set())
    return kernel


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_a_volume_works_by_the_device_below_it_and_then_by_its_own_table_again(kernel, log):
    write_log.begin(VOLUME, log)
    assert kernel.tables == {VOLUME: [LOGGED], BELOW: [LINEAR]}
    assert device_mapper.own_table(VOLUME) == [LINEAR]
    assert kernel.asked[-1] == ("resume", VOLUME), "all is there before the volume is touched"
    assert write_log.end(VOLUME)
    assert kernel.tables == {VOLUME: [LINEAR]}
    assert not write_log.end(VOLUME)


@pytest.mark.parametrize(
    "refused", ["create", "load linear", "resume unseen", "load log-writes", "resume"]
)
def test_whatever_the_kernel_refuses_leaves_the_volume_as_it_was(kernel, log, refused):
    kernel.refuses = refused
    with pytest.raises(LogRefused, match="the kernel refuses it"):
        write_log.begin(VOLUME, log)
    assert kernel.tables == {VOLUME: [LINEAR]}
    kernel.refuses = ""
    write_log.begin(VOLUME, log)


def test_what_a_killed_one_has_left_is_taken_away(kernel, log):
    kernel.create(write_log._name_below(VOLUME))
    kernel.tables[BELOW], kernel.loads[VOLUME] = [LINEAR], [LOGGED]
    write_log.begin(VOLUME, log)
    kernel.tables[VOLUME] = [LINEAR]  # as LVM does it
    assert not write_log.end(VOLUME)
    assert kernel.tables == {VOLUME: [LINEAR]}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target(0, 8, "mirror", ""), "device-mapper has made it of mirror"),
        (LOGGED, "its writes are logged already"),
        (Target(0, 8, "crypt", "aes-xts-plain64 :64:logon:cryptsetup:x 0 253:32 0"), "its key"),
    ],
)
def test_what_cannot_be_had_twice_is_refused(kernel, log, target, words):
    kernel.tables[VOLUME] = [target]
    with pytest.raises(LogRefused, match=words):
        write_log.begin(VOLUME, log)
    assert kernel.asked == []


def test_a_cipher_whose_key_stands_in_its_table_is_opened_a_second_time(kernel, log):
    kernel.tables[VOLUME] = [Target(0, 8, "crypt", f"aes-xts-plain64 {KEY} 0 253:32 32768")]
    write_log.begin(VOLUME, log)


def test_a_log_that_its_sender_may_not_write_to_is_refused(kernel, tmp_path):
    (tmp_path / "log").touch()
    for path, flags in ((tmp_path / "log", os.O_RDONLY), (tmp_path, os.O_PATH), ("/dev/null", 2)):
        fd = os.open(path, flags)
        with pytest.raises(LogRefused, match="has to be a file that may be written to"):
            write_log.begin(VOLUME, fd)
        os.close(fd)


def test_a_log_on_the_volume_itself_is_refused(kernel, log, monkeypatch):
    monkeypatch.setattr(stacking, "stored_on", lambda _: {"254:0", "253:16"})
    with pytest.raises(LogRefused, match="cannot lie on the volume"):
        write_log.begin(VOLUME, log)
    assert kernel.asked == []


def test_how_a_log_is_is_read_of_what_the_kernel_says(monkeypatch):
    def says(parameters: str) -> Logged | None:
        target = Target(0, 8, "log-writes", parameters)
        monkeypatch.setattr(device_mapper, "status", lambda _: [target])
        return write_log.state(VOLUME)

    assert says("29 81") == Logged(29, 82 * 512, True)
    assert says("29 81 logging_disabled") == Logged(29, 82 * 512, False)
    monkeypatch.setattr(device_mapper, "status", lambda _: [LINEAR])
    assert write_log.state(VOLUME) is None


def test_a_table_is_packed_as_the_kernel_reads_it():
    """As dm-ioctl.h has it: where the next one begins is counted from this one."""
    lines = b"".join(map(device_mapper._packed, [LINEAR, LOGGED]))
    size = int.from_bytes(lines[20:24], "little")
    assert size % 8 == 0
    assert lines[24:31] == b"linear\0"
    assert lines[40 : 40 + len(LINEAR.parameters) + 1] == LINEAR.parameters.encode() + b"\0"
    assert lines[size + 24 : size + 35] == b"log-writes\0"


# ----------------------------------------------------------------------------------- the agent


@pytest.fixture
def served(kernel, log, monkeypatch) -> list[object]:
    """What happens while an agent serves a client that has a volume logged, and goes."""
    monkeypatch.setattr(device_mapper, "status", lambda _: [LOGGED._replace(parameters="1 8")])
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    seen: list[object] = []
    with other, Service(Everything()) as asked:
        with ours:
            socket.send_fds(ours, [messages.from_client(messages.Log("254:0"))], [log])
            ours.send(messages.from_client(messages.TellLog("254:0")))
            ours.shutdown(socket.SHUT_WR)
            serve(other, asked)
            seen += [ours.recv(messages.MAX_MESSAGE) for _ in range(2)]
        seen.append(dict(kernel.tables))
    return [*seen, kernel.tables]


def test_the_agent_logs_into_the_file_that_it_is_handed_until_its_client_is_gone(served):
    begun, told, while_there, afterwards = served
    messages.reply_of(messages.Done, begun)
    status = messages.reply_of(messages.LogStatus, told)
    assert status.log == Logged(1, 9 * 512, True)
    assert while_there == {VOLUME: [LOGGED], BELOW: [LINEAR]}
    assert afterwards == {VOLUME: [LINEAR]}


def test_no_descriptor_stays_with_the_agent_and_without_one_nothing_is_logged(kernel, log):
    before = len(os.listdir("/proc/self/fd"))
    with Service(Everything()) as asked:
        for request in (messages.Log("254:0"), messages.TellLog("254:0")):
            reply, _ = asked.answer(messages.from_client(request))
            assert b"refused" in reply
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, other, Service(Nothing()) as asked:
        for _ in range(5):
            socket.send_fds(ours, [messages.from_client(messages.Log("254:0"))], [log] * 8)
        ours.shutdown(socket.SHUT_WR)
        serve(other, asked)
    assert len(os.listdir("/proc/self/fd")) == before
    assert kernel.asked == []
