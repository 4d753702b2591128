"""The agent is installed as a copy that the system's own Python runs, and removed altogether."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.mounts import MIB, image, opened
from tests.sources.loops import loop, mounted
from tests.sources.ordinary_user import as_an_ordinary_user
from vdbackup.agent import activation, client, connection, permission, pins, privileges
from vdbackup.agent.in_use import Asked
from vdbackup.errors import AgentFailed, NeedsRoot, Unauthorized
from vdbackup.jobs import Task
from vdbackup.operations import agent

AGENT = Path(__file__).resolve().parents[2] / "resources" / "agent"
PLACES = {
    "/usr/libexec/vdbackup/vdbackup-agent",
    "/usr/share/polkit-1/actions/org.vdbackup.vdbackup.policy",
    "/etc/systemd/system/vdbackup-agent.socket",
    "/etc/systemd/system/vdbackup-agent@.service",
}
SOCKET = connection.SOCKET  # which no test reaches
DTD = Path("/usr/share/polkit-1/policyconfig-1.dtd")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where it is installed."""
    agent.install(agent.plan_install(tmp_path / "root"), Task())
    return tmp_path / "root"


@pytest.fixture
def program(root: Path) -> Path:
    return root / "usr/libexec/vdbackup/vdbackup-agent"


def everything(folder: Path) -> set[str]:
    return {f"/{each.relative_to(folder)}" for each in folder.rglob("*") if not each.is_dir()}


def test_a_plan_names_each_file_and_writes_none(tmp_path):
    plan = agent.plan_install(tmp_path)
    assert everything(tmp_path) == set()
    agent.install(plan, Task())
    assert {str(tmp_path) + each for each in everything(tmp_path)} == set(plan.creates)
    assert set(plan.creates) >= {str(tmp_path) + each for each in PLACES}
    again = agent.plan_install(tmp_path)
    assert (again.creates, set(again.replaces)) == ((), set(plan.creates))


def test_what_is_installed_nobody_but_root_may_change(root):
    for each in root.rglob("*"):
        found = each.stat()
        runs = each.is_dir() or each.name == "vdbackup-agent"
        assert found.st_mode & 0o7777 == (0o755 if runs else 0o644), each
        assert found.st_uid == os.geteuid()


def test_it_is_removed_without_a_trace_and_can_be_once_more(root):
    (root / "usr/libexec/vdbackup/vdbackup/of an earlier version.py").touch()
    agent.install(agent.plan_install(root), Task())
    assert not (root / "usr/libexec/vdbackup/vdbackup/of an earlier version.py").exists()
    plan = agent.plan_remove(root)
    assert set(plan.replaces) == {str(root) + each for each in everything(root)}
    agent.remove(plan, Task())
    assert everything(root) == set()
    assert not (root / "usr/libexec/vdbackup").exists()
    assert agent.plan_remove(root).replaces == ()


def test_only_root_may_install_it_on_this_system(as_root):
    with as_an_ordinary_user():
        for plan in (agent.plan_install, agent.plan_remove):
            with pytest.raises(NeedsRoot):
                plan(Path("/"))


# ----------------------------------------------------------------------------- the program


def started(program: Path, stdin: socket.socket | int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([program], stdin=stdin, stderr=subprocess.PIPE, cwd="/")


@pytest.fixture
def served(program: Path) -> Iterator[tuple[socket.socket, int]]:
    """A connection to the installed copy, and its process."""
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with started(program, other.fileno()) as process:
        other.close()
        ours.settimeout(60)
        with ours:
            yield ours, process.pid
        assert process.wait() == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_the_copy_runs_by_the_systems_python_with_nothing_but_what_that_comes_with(
    as_root, program, served
):
    assert program.read_text().splitlines()[0] == f"#{'!'}{activation.PYTHON} -IS"
    ours, pid = served
    ours.send(b'{"status": {}}')
    assert json.loads(socket.recv_fds(ours, 1000, 0)[0]) == {"done": {}}
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "site-packages" not in maps
    assert "dist-packages" not in maps
    assert not list(program.parent.rglob("__pycache__"))


def test_the_program_keeps_six_rights_and_can_have_no_more(as_root, served):
    ours, pid = served
    ours.send(b'{"release": {}}')
    ours.recv(1000)
    status = Path(f"/proc/{pid}/status").read_text()
    had = dict(re.findall(r"^(\w+):[ \t]*(.*)$", status, re.MULTILINE))
    kept = sum(1 << number for number in privileges.KEPT)
    for which in ("CapPrm", "CapEff", "CapBnd"):
        assert int(had[which], 16) & ~kept == 0
    assert int(had["CapEff"], 16) >> privileges.SYS_ADMIN & 1
    assert int(had["CapInh"], 16) == int(had["CapAmb"], 16) == 0
    assert (had["NoNewPrivs"], had["Groups"], had["Umask"]) == ("1", "", "0077")
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")


def test_the_program_serves_no_other_input_than_a_clients_socket(program):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        for stdin in (subprocess.DEVNULL, other.fileno()):
            with started(program, stdin) as process:
                assert b"do not start it by hand" in process.communicate()[1].lower()
                assert process.returncode == 1


# -------------------------------------------------------------------------------- pkexec

ALONE = """exec unshare --mount sh -c 'mount -t bpf bpf /sys/fs/bpf && exec "$0"' "$@" """
"""Trackers of this test's alone."""
PKEXEC = """#!/bin/sh
echo "$@" >> {folder}/asked
export PKEXEC_UID=65534
{does}
"""


def pkexec(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> Path:
    """A stand-in for it, which is asked nothing; what it was started for."""
    file = folder / "pkexec"
    file.write_text(PKEXEC.format(folder=folder, does=does))
    file.chmod(0o755)
    monkeypatch.setattr(connection, "PKEXEC", str(file))
    monkeypatch.setattr(connection, "SOCKET", folder / "no socket")
    monkeypatch.setattr(client, "is_done_here", lambda: False)
    return folder / "asked"


def test_where_systemd_does_not_pkexec_starts_it_once_for_all_that_is_asked_meanwhile(
    as_root, program, tmp_path, monkeypatch
):
    asked = pkexec(tmp_path, monkeypatch, ALONE)
    monkeypatch.setattr(connection, "PROGRAM", program)
    disk = image(tmp_path / "disk.img", 32, "ext4")
    with loop(disk) as device, mounted(device, tmp_path / "mount"), opened(tmp_path / "mount"):
        fd, let_go = client.opened(device)
        assert os.lseek(fd, 0, os.SEEK_END) == 32 * MIB
        with client.device_in_use(device, None, None) as used:
            assert used.round(Asked(1 << 30, ends=True), used.harvest.token).taken
        let_go()
        os.close(fd)
    assert asked.read_text() == f"{program}\n"


@pytest.mark.parametrize(
    ("does", "kind", "words"),
    [
        ("exit 126", Unauthorized, "was closed"),
        ("exit 127", Unauthorized, "nobody is there"),
        ("exit 1", AgentFailed, "has ended"),
    ],
)
def test_what_pkexec_refuses_is_said_in_a_sentence(
    program, tmp_path, monkeypatch, does, kind, words
):
    pkexec(tmp_path, monkeypatch, does)
    monkeypatch.setattr(connection, "PROGRAM", program)
    with pytest.raises(kind, match=words):
        client.tracked()


ASKS = """#!{python}
import os, pathlib, signal, sys
file = pathlib.Path("{folder}/arguments")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(file.open("a").write("ended")))
file.write_text(" ".join(sys.argv[1:]) + os.linesep)
os.close(int(sys.argv[-1]))  # who waits may go on
signal.pause()
"""


@pytest.mark.parametrize(("screen", "option"), [("", ""), (":0", "--fallback ")])
def test_on_a_terminal_polkits_own_program_asks_as_long_as_somebody_is_connected(
    as_root, tmp_path, monkeypatch, screen, option
):
    """systemd's service has no terminal, and asks polkit about the client."""
    asks = tmp_path / "pkttyagent"
    asks.write_text(ASKS.format(folder=tmp_path, python=sys.executable))
    asks.chmod(0o755)
    monkeypatch.setattr(connection, "PKTTYAGENT", str(asks))
    monkeypatch.setattr(connection, "SOCKET", tmp_path / "socket")
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        connection.connected().close()
    said = (tmp_path / "arguments").read_text().splitlines()
    assert said[0].startswith(f"{option}--notify-fd ")
    assert said[1:] == ["ended"]


# ------------------------------------------------------------------------- policy and units


def test_the_policy_names_the_actions_that_are_asked_about_and_the_program(root):
    policy = ET.parse(root / "usr/share/polkit-1/actions/org.vdbackup.vdbackup.policy")
    actions = {each.get("id"): each for each in policy.iter("action")}
    assert set(actions) == {*permission.Action, permission.RUN}
    annotated = {
        name: each.text for name, action in actions.items() for each in action.iter("annotate")
    }
    assert annotated == {permission.RUN: str(connection.PROGRAM)}
    for action in actions.values():
        (defaults,) = action.iter("defaults")
        found = {each.tag: each.text for each in defaults}
        assert found["allow_any"] == found["allow_inactive"] == "auth_admin"
    for name in (permission.Action.USE_SYSTEM, permission.RUN):
        assert actions[name].findtext("defaults/allow_active") == "auth_admin_keep"


def test_the_policy_is_as_polkits_own_description_wants_it():
    policy = AGENT / "org.vdbackup.vdbackup.policy"
    order = ["description", "message", "icon_name", "defaults", "annotate"]
    for action in ET.parse(policy).iter("action"):
        tags = [each.tag for each in action]
        assert tags == order[: len(tags)]
    if DTD.exists() and shutil.which("xmllint"):  # of the packages polkitd and libxml2-utils
        command = ["xmllint", "--noout", "--nonet", "--dtdvalid", DTD, policy]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_units_name_the_program_the_socket_and_the_same_rights():
    unit = (AGENT / "vdbackup-agent@.service").read_text()
    listens = (AGENT / "vdbackup-agent.socket").read_text()
    assert f"ExecStart={connection.PROGRAM}\n" in unit
    assert f"ListenSequentialPacket={SOCKET}\n" in listens
    names = dict(enumerate(CAPABILITIES.split()))
    (kept,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert set(kept.split()) == {f"CAP_{names[each]}" for each in privileges.KEPT}
    (written,) = re.findall(r"^ReadWritePaths=(.*)$", unit, re.MULTILINE)
    assert written.split() == [f"-{pins.BPFFS}", "-/sys/fs/cgroup"]
    # which make these read-only all the same
    assert "\nProtectKernelTunables=" not in unit
    assert "\nProtectControlGroups=" not in unit


CAPABILITIES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
"""In the order of linux/capability.h."""


def test_systemd_finds_nothing_wrong_with_the_units(root, program, tmp_path):
    units = root / "etc/systemd/system"
    for each in units.iterdir():  # the program is where it was put
        text = each.read_text().replace(str(connection.PROGRAM), str(program))
        each.write_text(text)
        assert re.sub(r"^(\[\w+\]|#.*|\w+=.+|)\n", "", text, flags=re.MULTILINE) == ""
    one = tmp_path / "vdbackup-agent@1.service"
    shutil.copy(units / "vdbackup-agent@.service", one)
    if shutil.which("systemd-analyze"):
        command = ["systemd-analyze", "verify", "--man=no", units / "vdbackup-agent.socket", one]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ours = [line for line in done.stderr.splitlines() if "vdbackup" in line]
        assert (done.returncode, ours) == (0, [])
