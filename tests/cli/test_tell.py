"""How people are told of trouble, said at the terminal: the settings that the window shows, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.notified import desktop
from vdbackup.locations import Locations
from vdbackup.operations import telling
from vdbackup.settings import Settings


@pytest.fixture(autouse=True)
def _no_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "MAILERS", ("no-such-mailer",))


def settings() -> Settings:
    return Settings.load(Locations.from_environment().settings_file)


def test_it_shows_what_is_set_and_writes_nothing(vdbackup: Vdbackup):
    said = vdbackup("tell", "--json")
    assert said.status == 0
    usual = {"mail_to": None, "command": None, "remind_after_days": 7, "missing": []}
    assert said.json == usual
    assert not Locations.from_environment().settings_file.exists()
    assert "7 days" in vdbackup("tell").out


def test_what_is_set_stands_in_the_windows_settings_beside_the_rest(vdbackup: Vdbackup):
    Settings(headless=True).save(Locations.from_environment().settings_file)
    command = "/bin/true --loud 'a b'"
    said = vdbackup("tell", "--command", command, "--remind-after", 3, "--json")
    assert said.status == 0
    assert said.json == {
        "event": "result",
        "mail_to": None,
        "command": command,
        "remind_after_days": 3,
        "missing": [],
    }
    assert settings() == Settings(headless=True, trouble_command=command, remind_after_days=3)
    assert vdbackup("tell", "--command", "off").status == 0
    assert settings() == Settings(headless=True, remind_after_days=3)


@pytest.mark.parametrize(
    "options",
    [["--mail", "me"], ["--mail", "-X"], ["--command", "say 'a"], ["--remind-after", "0"]],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    vdbackup: Vdbackup, options: list[str]
):
    assert vdbackup("tell", *options, "--json").status == 2
    assert not Locations.from_environment().settings_file.exists()


def test_what_was_written_by_hand_is_shown_and_mended(vdbackup: Vdbackup):
    Settings(mail_to="-X").save(Locations.from_environment().settings_file)
    shown = vdbackup("tell")
    assert shown.status == 3
    assert "'-X' is no address for mail" in shown.err
    assert vdbackup("tell", "--mail", "off").status == 0
    assert settings().mail_to == ""


def test_a_program_that_is_not_there_is_kept_and_said(vdbackup: Vdbackup):
    said = vdbackup("tell", "--command", "no-such-program", "--json")
    assert said.status == 3
    assert said.json["missing"] == ["There is no program no-such-program here."]
    assert settings().trouble_command == "no-such-program"


def test_the_test_tells_in_each_way_and_says_how_that_went(
    vdbackup: Vdbackup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told = tmp_path / "told"
    command = f"/bin/sh -c 'printf %s \"$1\" > {told}' alarm"
    with desktop(tmp_path) as (address, shown):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        said = vdbackup("tell", "--command", command, "--test", "--json")
        assert said.status == 0
        ways = [{"way": each, "problem": None} for each in ("desktop", "command")]
        assert said.json["test"] == ways
        assert shown.texts() == ["So you are told when a scheduled backup needs you."]
    assert told.read_text() == "Test message"
    assert "Desktop: There is no desktop" in vdbackup("tell", "--command", "false", "--test").out
    assert vdbackup("tell", "--test").status == 3  # false says no
    assert vdbackup("tell", "--command", "true", "--test").status == 0  # one of them is enough
    assert vdbackup("tell", "--command", "off", "--test").status == 3  # nobody would hear


def test_settings_that_make_no_sense_are_left_as_they_are(vdbackup: Vdbackup):
    file = Locations.from_environment().settings_file
    file.parent.mkdir(parents=True)
    file.write_text("{")
    assert vdbackup("tell", "--mail", "me@example.org").status == 1
    assert file.read_text() == "{"
