"""The user's language: nothing is left out, German is whole, what programs read is English."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from vdbackup import translation
from vdbackup.agent.permission import DOING, Action
from vdbackup.records import Sentence, exact, to_json
from vdbackup.translation import again, original, tr, trn

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "packaging"))

import catalogue  # noqa: E402 - it lies beside what builds the program

GERMAN = CHECKOUT / "resources/locale/de/LC_MESSAGES/vdbackup.po"
PLACE = re.compile(r"{[^{}]*}|%\([a-z_]+\)[a-z]|%[a-z]")


@pytest.fixture
def german():
    """The language of this process, for a while."""
    translation.use(translation.read(GERMAN))
    translation._templates.cache_clear()
    translation._said_again.cache_clear()
    yield
    translation.english()
    translation._templates.cache_clear()
    translation._said_again.cache_clear()


def started(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The program, as a shell with these variables starts it."""
    languages = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    others = {name: value for name, value in os.environ.items() if name not in languages}
    return subprocess.run(
        [sys.executable, "-m", "vdbackup", *arguments],
        cwd=CHECKOUT,
        env={**others, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200", **environ},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def in_pseudo(path: str, folder: Path) -> None:
    """Run tests in the language that nobody speaks; in a folder of their own.

    In pytest's usual one they would remove those of runs before, this one's too.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n", "0"),
            *("-p", "tests.pseudo", "-p", "no:cacheprovider", "--basetemp", folder / "pseudo"),
            path,
        ],
        cwd=CHECKOUT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]


def test_german_is_whole_and_has_nothing_that_is_said_no_more():
    wanted = catalogue.texts()
    assert len(wanted) > 2000
    written = GERMAN.read_text(encoding="utf-8")
    assert written == catalogue.updated(GERMAN, wanted)
    assert "fuzzy" not in written
    known = translation.read(GERMAN).texts
    assert [text for text in wanted if text[0] not in known] == []


def test_a_translation_has_the_places_of_its_text():
    known = translation.read(GERMAN).texts
    wrong = [
        (text, said)
        for text in catalogue.texts()
        for said, form in zip(known.get(text[0], ()), text, strict=False)
        if sorted(set(PLACE.findall(said)))
        not in (sorted(set(PLACE.findall(form))), sorted(set(PLACE.findall(text[-1]))))
    ]
    assert wrong == []


@pytest.mark.long
def test_no_text_of_the_window_is_left_out(tmp_path: Path):
    in_pseudo("tests/gui/views_in_pseudo.py", tmp_path)


def test_no_text_of_the_command_line_is_left_out(tmp_path: Path):
    in_pseudo("tests/cli/output_in_pseudo.py", tmp_path)


@pytest.mark.parametrize(
    ("environ", "languages"),
    [
        ({}, []),
        ({"LANG": "C.UTF-8", "LANGUAGE": "de"}, []),
        ({"LANG": "en_GB.UTF-8"}, []),
        ({"LANG": "de_AT.UTF-8"}, ["de_AT", "de"]),
        ({"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, []),
        ({"LC_MESSAGES": "fr_FR", "LANG": "de_DE"}, ["fr_FR", "fr"]),
        ({"LANGUAGE": "fr:de", "LANG": "en_US.UTF-8"}, ["fr", "de"]),
        ({"LANGUAGE": "en:de", "LANG": "de_DE.UTF-8"}, []),
        ({"LANG": "../../etc.UTF-8"}, []),
    ],
)
def test_the_language_is_the_one_that_gettext_would_take(environ: dict[str, str], languages):
    assert translation.wanted(environ) == languages


def test_help_and_errors_are_in_german_where_the_user_is(tmp_path: Path):
    environ = {"LANG": "de_DE.UTF-8"}
    said = started("--help", environ=environ)
    assert said.returncode == 0
    assert "Aufruf: vdbackup" in said.stdout
    assert "einen Datenträger oder gewählte Dateien sichern" in said.stdout
    said = started("list", "-r", str(tmp_path), environ=environ)
    assert said.returncode == 1
    assert "ist kein Sicherungsordner" in said.stderr
    assert "fehlen die Argumente" in started("list", environ=environ).stderr


def test_who_asks_for_json_is_answered_in_english(tmp_path: Path):
    said = started("list", "-r", str(tmp_path), "--json", environ={"LANG": "de_DE.UTF-8"})
    assert "is not a repository" in json.loads(said.stderr)["title"]


def test_no_catalogue_is_read_for_english():
    program = (
        "from vdbackup import cli, translation; cli.main(['--version']);"
        "translation.tr('Name'); print(len(translation._spoken[0].texts))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "0"


@pytest.mark.usefixtures("german")
def test_numbers_and_forms_are_those_of_the_language():
    assert trn("{count} day", "{count} days", 1) == "1 Tag"
    assert trn("{count} day", "{count} days", 1500) == "1.500 Tage"
    assert translation.decimal("1,234.5") == "1.234,5"


@pytest.mark.usefixtures("german")
def test_what_is_kept_is_english_and_is_said_in_the_language_again():
    said = tr("the disk has another size now")
    assert said == "der Datenträger hat jetzt eine andere Größe"
    assert to_json(said) == original(said) == "the disk has another size now"
    assert again(original(said)) == said
    assert exact(Sentence, "the disk has another size now") == said
    reason = tr("{path} is a folder.", path=tr("The machine"))
    assert original(reason) == "The machine is a folder."
    assert again(original(reason)) == reason


@pytest.mark.usefixtures("german")
@pytest.mark.parametrize("action", list(Action))
def test_what_the_service_may_not_do_for_somebody_is_said_whole_in_the_language(action):
    """It speaks English, and puts the doing into its sentences."""
    said = again(f"You may not {DOING[action]}: polkit refuses it.")
    assert again(DOING[action]) in said
    assert DOING[action] not in said


@pytest.mark.usefixtures("german")
def test_what_nobody_of_ours_has_said_stays_as_it_is():
    assert again("my own note, about nothing") == "my own note, about nothing"
    assert again("") == ""
