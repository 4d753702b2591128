"""A client may send anything: it gets a refusal, and nothing that it may not have."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.agent.agents import AGENT, CHECKOUT
from tests.agent.mounts import MIB, image, is_frozen, opened
from tests.sources.loops import loop, mounted
from vdbackup.agent import client, messages, service
from vdbackup.agent.changes import BLOCK, Changes, Harvest, Token
from vdbackup.agent.client import _coarser
from vdbackup.agent.freezing import Freeze
from vdbackup.agent.in_use import Round
from vdbackup.agent.memory import LockedMemory, SeenMemory, held_in, sealed
from vdbackup.agent.messages import MAX_AGAIN, MAX_MESSAGE
from vdbackup.agent.service import Service, serve
from vdbackup.errors import AgentFailed, NotFrozen, Unauthorized

TOKEN = {"nonce": "0" * 32, "generation": 1, "start": 0, "size": 1 << 30}
USE = {"device": "7:0", "name": "a set", "since": None}
ROUND = {"few": 0, "shrunk": 0, "ends": True, "again": [[0, 4096]], "since": TOKEN}
MALFORMED = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b'{"open": 1}',
    b'{"open": null}',
    b'{"nothing": {}}',
    b'{"status": {"device": "7:0"}}',
    b'{"release": []}',
    b'{"open": {"device": "7:0"}, "status": {}}',
    b'{"open": {"device": "7:0", "flags": 2}}',
    b'{"open": {}}',
    *(
        json.dumps({"open": {"device": device}}).encode()
        for device in (
            "/dev/sda", "7:0/../8:0", "../sda", "7:0\n", " 7:0", "7", "7:", ":0", "-7:0", "7:0:0",
            "", "\u0667:0", "7:0\0", 7, None, ["7:0"], "99999:0", "7:99999999",
        )
    ),
    *(
        json.dumps({"use": USE | wrong}).encode()
        for wrong in (
            {"name": ""}, {"name": "x" * 201}, {"name": "a\n"}, {"name": "\u00e4"}, {"name": 1},
            {"name": "capture 1 2 ab"},
            {"since": {}}, {"since": TOKEN | {"nonce": "0"}}, {"since": TOKEN | {"size": -1}},
            {"since": TOKEN | {"generation": 1 << 63}}, {"since": TOKEN | {"start": 1.5}},
        )
    ),
    *(
        json.dumps({"round": ROUND | wrong}).encode()
        for wrong in (
            {"few": -1}, {"few": 1 << 64}, {"ends": 1}, {"again": [[0]]}, {"again": [[0, 0]]},
            {"again": [[0, 1, 2]]}, {"again": [[-1, 1]]}, {"again": [[0, 1]] * (MAX_AGAIN + 1)},
            {"again": {}}, {"since": None},
        )
    ),
    *(
        json.dumps({"distrust": wrong}).encode()
        for wrong in (
            {}, {"why": ""}, {"why": "x" * 201}, {"why": "a\n"}, {"why": 1},
            {"why": "a", "device": "/dev/sda"},
        )
    ),
    *(
        json.dumps({"rounds": {"rounds": wrong}}).encode()
        for wrong in (
            [], {}, [ROUND], [{"device": "7:0", "round": {}}], [{"device": "7", "round": ROUND}],
            [{"device": "7:0", "round": ROUND}] * 2,
            [{"device": f"7:{number}", "round": ROUND} for number in range(17)],
        )
    ),
    b'{"release": {"device": "sda"}}',
    b"[" * MAX_MESSAGE,
    b'{"open":' * 5000,
    b'{"round": {"few": ' + b"9" * 6000 + b"}}",
    b'{"keep": {"token": NaN}}',
    b"x" * MAX_MESSAGE,
]  # fmt: skip


class Nothing:
    """The permission of whoever may do nothing."""

    def check_use(self, device: str) -> None:
        raise Unauthorized(f"no {device}")

    def check_look(self) -> None:
        raise Unauthorized("not even that")

    def check_log(self, device: str) -> None:
        raise Unauthorized(f"no {device}")


def refusal(reply: bytes) -> str:
    return str(json.loads(reply)["refused"]["code"])


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:40]))
def test_what_is_no_request_is_refused_as_such(data: bytes):
    with Service(Nothing()) as asked:
        reply, fds = asked.answer(data)
        assert (refusal(reply), fds) == ("agent-failed", [])


REACHING = ["open", "track", "untrack", "status", "use", "log", "unlog", "log-status"]


@pytest.mark.parametrize("request_", REACHING)
def test_every_request_that_reaches_a_device_asks_for_permission_first(request_, monkeypatch):
    def reached(*_: object) -> None:
        raise AssertionError("a device was reached")

    for name in ("node_of", "tracking", "InUse", "write_log"):
        monkeypatch.setattr(service, name, reached)
    bodies = {"status": {}, "use": USE}
    data = json.dumps({request_: bodies.get(request_, {"device": "7:0"})}).encode()
    with Service(Nothing()) as asked:
        assert refusal(asked.answer(data)[0]) == "unauthorized"


def test_a_client_that_uses_nothing_has_no_round_and_nothing_to_keep():
    with Service(Nothing()) as asked:
        for data in ({"round": ROUND}, {"keep": {"token": TOKEN}}, {"distrust": {"why": "so"}}):
            assert refusal(asked.answer(json.dumps(data).encode())[0]) == "agent-failed"
        assert json.loads(asked.answer(b'{"release": {}}')[0]) == {"done": {}}


def test_a_client_that_says_nothing_or_takes_no_reply_is_left(monkeypatch):
    monkeypatch.setattr(service, "IDLE", 0.05)
    monkeypatch.setattr(service, "_TAKES_WITHIN", 0.05)
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, other, Service(Nothing()) as asked:
        serve(other, asked)
        ours.setblocking(False)
        with suppress(BlockingIOError):  # no more has room
            while True:
                ours.send(b"{}")
        serve(other, asked)


# --------------------------------------------------------------------------------- fuzzed


@pytest.fixture
def allowed(as_root, tmp_path: Path) -> Iterator[Path]:
    """The one device that the client may use; nothing is mounted from it."""
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(MIB)
    with loop(disk) as device:
        yield device


@contextmanager
def agent(bpffs: Path, folder: Path, allowed: Path) -> Iterator[socket.socket]:
    """One as pkexec starts it, whose client is an ordinary user."""
    (folder / "pkcheck").write_text(
        f"#!/bin/sh\nfor last; do :; done\ntest $last = {allowed.name} -o $last = "
        "--allow-user-interaction"
    )
    (folder / "pkcheck").chmod(0o755)
    os.setresuid(65534, 65534, 0)  # who made the socket is who asks
    try:
        ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    finally:
        os.setresuid(0, 0, 0)
    command = [sys.executable, "-c", AGENT, str(bpffs), str(folder)]
    with ours, (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=CHECKOUT, stdin=other.fileno(), stderr=said)
        other.close()
        ours.settimeout(60)
        with process:
            yield ours
            ours.close()
    assert process.returncode == 0
    assert (folder / "said").read_text() == ""


SEEDS = [
    {"open": {"device": "1:0"}},
    {"open": {"device": "7:0"}},
    {"track": {"device": "8:0"}},
    {"untrack": {"device": "7:1"}},
    {"status": {}},
    {"use": USE},
    {"use": USE | {"name": None, "since": TOKEN}},
    {"round": ROUND},
    {"keep": {"token": TOKEN}},
    {"distrust": {"why": "a full read found 3 blocks"}},
    {"release": {}},
]


def messages_at_random(chance: random.Random, device: str) -> Iterator[bytes]:
    """For ever: requests, some of them for the device, and what becomes of them by accidents."""
    seeds = [json.dumps(each).encode() for each in SEEDS]
    seeds += [json.dumps({verb: {"device": device}}).encode() for verb in ("open", "untrack")]
    while True:
        kind = chance.random()
        if kind < 0.1:
            yield chance.randbytes(chance.randrange(1, 300)) or b"\0"
            continue
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(data))
            accident = chance.randrange(5)
            if accident == 0:
                data[at] = chance.randrange(256)
            elif accident == 1:
                del data[at : at + chance.randrange(1, 9)]
            elif accident == 2:
                data[at:at] = data[: chance.randrange(40)]
            elif accident == 3:
                data[at:at] = chance.choice([b'"', b"{", b"]", b"/dev/sda", b"0", b"-", b"\\u0000"])
            else:
                data[at : at + 1] = str(chance.randrange(300)).encode()
            if not data:
                break
        yield bytes(data) or b"\0"


@pytest.mark.parametrize("count", [600, pytest.param(100_000, marks=pytest.mark.long)])
def test_whatever_is_sent_opens_nothing_that_was_not_allowed(bpffs, allowed, tmp_path, count):
    number = allowed.stat().st_rdev
    device = f"{os.major(number)}:{os.minor(number)}"
    chance = random.Random(count)
    granted = 0
    with agent(bpffs, tmp_path, allowed) as connection:
        for _, data in zip(range(count), messages_at_random(chance, device), strict=False):
            with_descriptor = chance.random() < 0.05
            fds = [0] if with_descriptor else []
            socket.send_fds(connection, [data], fds)
            reply, found, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 8)
            assert len(json.loads(reply)) == 1
            for fd in found:
                held = os.fstat(fd)
                if stat.S_ISBLK(held.st_mode):
                    assert held.st_rdev == number
                    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
                    granted += 1
                else:
                    assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:vdbackup (deleted)"
                os.close(fd)
    assert granted > count / 100


def rounds_at_random(chance: random.Random, device: str, token: dict[str, object]) -> bytes:
    """A request about a device in use that could be meant, of a client that knows no order."""
    again = [[chance.randrange(1 << 26), chance.randrange(1, 1 << 20)] for _ in range(3)]
    since = chance.choice([TOKEN, token, token | {"generation": chance.randrange(9)}])
    wanted = {"few": chance.randrange(1 << 40), "ends": chance.random() < 0.5, "again": again}
    requests = [
        {"use": {"device": device, "name": chance.choice([None, "a set"]), "since": since}},
        {"use": {"device": device, "name": None, "since": since, "together": True}},
        {"rounds": {"rounds": [{"device": device, "round": ROUND | wanted | {"since": since}}]}},
        {"release": {"device": device}},
        {"round": ROUND | wanted | {"since": since}},
        {"round": ROUND | wanted | {"since": since, "again": []}},
        {"keep": {"token": since}},
        {"distrust": {"why": "a full read found 3 blocks"}},
        {"release": {}},
        {"track": {"device": device}},
        {"untrack": {"device": device}},
    ]
    return json.dumps(chance.choice(requests)).encode()


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.long)])
def test_whatever_is_asked_in_whatever_order_leaves_nothing_frozen(bpffs, stack, tmp_path, count):
    disk = image(tmp_path / "disk.img", 32, "ext4")
    device = stack.enter_context(loop(disk))
    stack.enter_context(mounted(device, tmp_path / "mount"))
    there = stack.enter_context(opened(tmp_path / "mount"))
    number = device.stat().st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    chance, token, taken = random.Random(count), TOKEN, 0
    with agent(bpffs, tmp_path, device) as connection:
        for _ in range(count):
            connection.send(rounds_at_random(chance, name, token))
            reply, fds, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 8)
            for fd in fds:
                os.close(fd)
            assert not is_frozen(there)
            done = json.loads(reply).get("done", {})
            taken += done.get("taken", False)
            token = done.get("harvested", {}).get("token") or token
    assert taken
    assert not is_frozen(there)


# --------------------------------------------------------------------- what goes across


def test_a_harvest_is_the_same_on_the_other_side():
    token = Token("0123456789abcdef" * 2, 7, 1 << 20, 1 << 30)
    changes = Changes(bytes(range(256)), 1 << 20, 1 << 30)
    for each in (Harvest(token, changes, ""), Harvest(None, None, "it is gone")):
        sent = messages.from_agent(messages.Harvested.of(each))
        bitmap = each.changes.bitmap if each.changes else None
        assert messages.reply_of(messages.Harvested, sent).harvest(bitmap) == each


def test_a_round_is_the_same_on_the_other_side():
    moment = datetime(2026, 1, 1, 12, 0, 0, 123_456, UTC)  # a log of writes has a mark of it
    seen = Round(Harvest(None, None, "no"), Freeze(0.0, moment, 0.04), taken=True, lost=((512, 9),))
    around = messages.Around((), ((0, 1),), ((1, 2),))
    sent = messages.from_agent(messages.Frozen.of(seen, around))
    assert messages.reply_of(messages.Frozen, sent).round(None) == seen


def test_an_error_is_the_same_on_the_other_side():
    for error in (NotFrozen("It is not.", "Do that."), Unauthorized("No."), OSError(28, "full")):
        with pytest.raises(type(error)) as raised:
            messages.reply_of(messages.Done, messages.from_agent(error))
        assert type(raised.value) is type(error)
        if isinstance(error, OSError):
            assert raised.value.errno == 28
        else:
            assert (raised.value.title, raised.value.advice) == (error.title, error.advice)


def test_an_agent_that_makes_no_sense_is_not_believed():
    for data in (b"", b"{}", b'{"done": {"since": 1}}', b'{"done": 1}', b'{"refused": {}}'):
        with pytest.raises(ValueError, match=r"."):
            messages.reply_of(messages.Disk, data)
    disk = messages.Disk("/dev/sda", datetime(2026, 1, 1, tzinfo=UTC))
    assert messages.reply_of(messages.Disk, messages.from_agent(disk)) == disk


def test_many_stretches_become_few_that_hold_them_all():
    chance = random.Random(1)
    places = sorted(chance.sample(range(1 << 20), 5 * MAX_AGAIN))
    many = [(place * BLOCK, BLOCK // 2) for place in places]
    few = _coarser(many)
    assert len(few) == MAX_AGAIN
    assert all(before[0] + before[1] < after[0] for before, after in itertools.pairwise(few))
    ends = iter(few)
    start, length = next(ends)
    for place, size in many:
        while place >= start + length:
            start, length = next(ends)
        assert start <= place
        assert place + size <= start + length
    assert _coarser(many[:MAX_AGAIN]) == tuple(many[:MAX_AGAIN])


def test_what_a_message_cannot_hold_is_refused_in_a_sentence():
    names = tuple(f"{number} (vfat), copied until it was quiet" for number in range(2000))
    with pytest.raises(AgentFailed):
        messages.from_agent(messages.Around(names, (), ()))


# -------------------------------------------------------------------------------- memory


def test_memory_of_the_agent_is_seen_and_not_touched_by_the_client():
    with LockedMemory(1 << 16) as ours, SeenMemory(os.dup(ours.descriptor)) as seen:
        ours.view[5:10] = b"hello"
        assert bytes(seen.view[5:10]) == b"hello"
        assert seen.view.readonly
        with pytest.raises(PermissionError):
            os.pwrite(ours.descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(ours.descriptor, 0)


def test_sealed_memory_cannot_be_changed_and_no_other_is_taken(tmp_path):
    fd = sealed(b"all of it")
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    assert held_in(os.dup(fd), 100) == b"all of it"
    with pytest.raises(ValueError, match="bytes"):
        held_in(fd, 3)
    with pytest.raises(ValueError, match="changed"):
        held_in(os.memfd_create("mine", os.MFD_ALLOW_SEALING), 100)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="no memory"):
        held_in(os.open(tmp_path / "file", os.O_RDONLY), 100)


def test_the_client_takes_as_many_descriptors_as_were_meant():
    with pytest.raises(AgentFailed):
        client._so_many([os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)], 1)
