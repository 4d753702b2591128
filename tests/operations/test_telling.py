"""People are told of trouble by the desktop, by mail, and by a command of their own."""

from __future__ import annotations

import email
import email.policy
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.notified import desktop
from vdbackup.errors import UsageError
from vdbackup.operations import telling
from vdbackup.operations.telling import Ways


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_desktop_shows_it_and_a_later_word_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desktop(tmp_path) as (address, shown):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        number = telling.on_desktop("Backup of laptop", "The disk is full.")
        telling.on_desktop("Backup of laptop", "It is over.", number)
    assert shown.told == [
        (0, "Backup of laptop", "The disk is full."),
        (number, "Backup of laptop", "It is over."),
    ]


def test_without_a_desktop_nothing_is_wrong() -> None:
    assert telling.tell(Ways(), "title", "text") == ()


def test_mail_is_sent_by_a_list_of_arguments_and_its_head_cannot_be_forged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path / "bin" / "msmtp", f'printf "%s\\n" "$@" > {tmp_path}/said; cat > {tmp_path}/mail'
    )
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    title = "Backup of a\nBcc: all@example.org"
    assert telling.tell(Ways(desktop=False, mail="me@example.org"), title, "Die Größe.") == ()
    assert (tmp_path / "said").read_text().splitlines() == ["-i", "--", "me@example.org"]
    mail = email.message_from_bytes((tmp_path / "mail").read_bytes(), policy=email.policy.default)
    assert mail["To"] == "me@example.org"
    assert "Bcc" not in mail
    assert mail["Subject"].startswith("vdbackup: Backup of a")
    assert mail.get_content().strip() == "Die Größe."


def test_a_command_gets_title_and_text_as_two_arguments(tmp_path: Path) -> None:
    called = program(tmp_path / "bin" / "alarm", f'printf "%s\\n" "$#" "$@" > {tmp_path}/said')
    ways = Ways(desktop=False, command=(str(called), "--loud"))
    assert telling.tell(ways, "a; rm -rf /", "$(reboot)") == ()
    assert (tmp_path / "said").read_text().splitlines() == [
        "3", "--loud", "a; rm -rf /", "$(reboot)"
    ]  # fmt: skip


def test_what_cannot_be_told_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "MAILERS", ("no-such-mailer",))
    broken = program(tmp_path / "bin" / "alarm", "exit 3")
    ways = Ways(desktop=False, mail="me@example.org", command=(str(broken),))
    mail, command = telling.tell(ways, "title", "text")
    assert "neither msmtp nor sendmail is installed" in mail
    assert "exit status 3" in command


@pytest.mark.parametrize(
    "address",
    [
        *("-oQ/tmp@x", "me", "me@a b", "a@b\nBcc: c@d", "<a@b>", "a@b,c@d", "x@;id"),
        *("a\0@b", "a\x1b@b", "a@b\u202e", "a\udcff@b"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        Ways(mail=address)


@pytest.mark.parametrize("command", ["/bin/echo a\0b", "''", "'' --loud", "'never closed"])
def test_what_is_no_command_is_refused(command: str) -> None:
    with pytest.raises(UsageError, match="is no command"):
        Ways.of("", command)


def test_mail_goes_to_an_address_of_any_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path / "bin" / "msmtp", f'printf "%s\\n" "$@" > {tmp_path}/said; cat > {tmp_path}/mail'
    )
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    address = "jörg@exämple.org"
    assert telling.tell(Ways(desktop=False, mail=address), "Sicherung von Büro", "Größe") == ()
    assert (tmp_path / "said").read_text().splitlines()[-1] == address
    mail = email.message_from_bytes((tmp_path / "mail").read_bytes(), policy=email.policy.SMTPUTF8)
    assert (mail["To"], mail["Subject"]) == (address, "vdbackup: Sicherung von Büro")


def test_what_a_command_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    """It shows a window, say, and has our output open as long as that stands there."""
    called = program(tmp_path / "bin" / "alarm", f"sleep 300 &\necho $! > {tmp_path}/pid")
    began = time.monotonic()
    try:
        assert telling.tell(Ways(desktop=False, command=(str(called),)), "title", "text") == ()
        assert time.monotonic() - began < 30
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
