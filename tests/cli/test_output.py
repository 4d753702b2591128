"""What is said never dies of where it goes, and is never obeyed: hostile names, real processes.

What is claimed of many commands is tried by the program's `main` in this process: to start it anew
takes ten times as long. What the system does to a process (its locale, descriptors that are closed,
full, or that nobody reads) is tried with real ones.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from vdbackup import __main__ as program
from vdbackup import cli
from vdbackup.cli.console import Bar
from vdbackup.jobs import Progress
from vdbackup.sources import demo_disk

NAME = b"d\xff \x1b[31mred\x07 <b>\xc3\xa9<b> \xe2\x80\xae\n.img"
"""Bytes that are no UTF-8, an escape, a bell, HTML, a letter, a turned direction, a line's end."""
SET = "\u00e9 \u0142"
ASCII = {"PYTHONIOENCODING": "ascii:strict"}
LATIN_1 = {"PYTHONIOENCODING": "latin-1:strict"}
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
BARE = {"PYTHONUNBUFFERED": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of a hostile name, in a set of a difficult one: two points."""
    where = tmp_path_factory.mktemp("hostile")
    demo_disk.create(source(where), "hello")
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in surroundings(where, {}).items():
            patch.setenv(variable, value)
        for _ in range(2):
            backup = ["backup", str(source(where)), "--set", SET, "-r", str(where / "backups")]
            assert cli.main(backup) == 0
    yield where
    os.unlink(source(where))


Here = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Here]:
    """`here(encoding, *arguments)` is what `vdbackup` does, in this process, with its own log."""
    monkeypatch.chdir(folder)
    for variable, value in surroundings(folder, {}).items():
        monkeypatch.setenv(variable, value)

    def run(encoding: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        capfdbinary.readouterr()
        with (
            open(os.devnull) as stdin,
            open(1, "w", encoding=encoding, errors="strict", closefd=False) as out,
            open(2, "w", encoding=encoding, errors="strict", closefd=False) as err,
            monkeypatch.context() as process,
            own_log(),
        ):
            for name, stream in (("stdin", stdin), ("stdout", out), ("stderr", err)):
                process.setattr(sys, name, stream)
            process.setattr(sys, "argv", ["vdbackup", *arguments])
            process.setenv("PYTHONIOENCODING", f"{encoding}:strict")
            status = program.main()
        return subprocess.CompletedProcess(arguments, status, *capfdbinary.readouterr())

    interrupted = signal.getsignal(signal.SIGINT)
    yield run
    signal.signal(signal.SIGINT, interrupted)


@contextmanager
def own_log() -> Iterator[None]:
    """Meanwhile nobody but the program itself reads and writes what it logs."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers, root.level, logging.raiseExceptions
    root.handlers = []
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers, logging.raiseExceptions = handlers, raises
        root.setLevel(level)


def source(where: Path) -> Path:
    return where / os.fsdecode(NAME)


def vdbackup(
    where: Path, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(arguments),
        cwd=where,
        env=surroundings(where, environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def command(arguments: Sequence[object]) -> list[bytes]:
    return [os.fsencode(str(each)) for each in (sys.executable, "-m", "vdbackup", *arguments)]


def surroundings(where: Path, more: dict[str, str]) -> dict[str, str]:
    home = {f"VDBACKUP_{name}_DIR": str(where / "home") for name in ("CONFIG", "DATA", "LOG")}
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **home, **BARE, **more}


def is_harmless(said: bytes, encoding: str) -> bool:
    """Whether a terminal of that encoding shows it all, and obeys nothing."""
    text = said.decode(encoding).replace("\n", "")
    return all(letter.isprintable() for letter in text)


COMMANDS = [
    ("list", "-r", "backups"),
    ("info", NAME),
    ("backup", NAME, "-r", "backups", "--set", SET, "--dry-run"),
    ("backup", NAME + b".gone", "-r", "backups"),
    ("backup", NAME, "-r", NAME),
    ("merge", "2", "-r", "backups", "--dry-run"),
    ("merge", "7", "-r", "backups", "--set", SET),
    ("delete", "2", "-r", "backups", "--set", NAME),
    ("restore", "1", NAME, "-r", "backups"),
    ("export", "1", NAME + b".vhd", "-r", "backups", "--dry-run"),
    ("verify", "-r", "backups"),
    ("repair", "-r", NAME),
    ("convert", "-r", "backups", "--set", SET, "--format", "qcow2", "--dry-run"),
    ("adopt", NAME, "-r", "others", "--dry-run"),
    ("boot", "1", "-r", "backups", "--set", NAME, "--headless"),
    ("boot-test", "1", "-r", "backups", "--set", NAME),
    ("retarget", "1", "-r", "backups", "--dry-run"),
    ("open-with", "vmware", NAME, "-r", "backups"),
    ("sessions", "list"),
    ("sessions", "reopen", NAME),
    ("files", "1", "/", "-r", "backups"),
    ("files", "1", NAME, "-r", "backups"),
    ("extract", "1", "/", NAME, "-r", "backups"),
    ("info", NAME, NAME),
    ("-v", "list", "-r", NAME),
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_an_ascii_terminal_is_told_everything_and_steered_by_nothing(
    here: Here, words: tuple[str | bytes, ...]
):
    said = here("ascii", *map(os.fsdecode, words))
    assert said.returncode in (0, 1, 2, 3)
    assert said.stdout or said.stderr
    assert is_harmless(said.stdout, "ascii")
    assert is_harmless(said.stderr, "ascii")
    assert b"unexpectedly" not in said.stderr
    if words[0] != "-v":
        assert b"Traceback" not in said.stderr


def test_a_process_of_an_ascii_terminal_says_the_same_as_this_one(folder: Path, here: Here):
    for words in (("list", "-r", "backups"), ("info", NAME), ("-v", "list", "-r", NAME)):
        arguments = [os.fsdecode(word) for word in words]
        said, ours = vdbackup(folder, *arguments, **ASCII), here("ascii", *arguments)
        assert (said.returncode, said.stdout) == (ours.returncode, ours.stdout)
        assert said.stderr.splitlines()[-1:] == ours.stderr.splitlines()[-1:]
        assert is_harmless(said.stderr, "ascii")


@pytest.mark.parametrize("environment", [LATIN_1, NO_UTF8], ids=["latin-1", "no UTF-8"])
def test_every_locale_finds_the_same_set_and_the_same_source(
    folder: Path, environment: dict[str, str]
):
    listed = vdbackup(folder, "list", "-r", "backups", "--json", **environment)
    assert [each["name"] for each in json.loads(listed.stdout)["sets"]] == [SET]
    planned = vdbackup(
        folder, "backup", source(folder), "-r", "backups", "--dry-run", **environment
    )
    assert is_harmless(planned.stdout, "latin-1")
    assert b"as an incremental recovery point" in planned.stdout


def test_a_terminal_that_knows_them_is_shown_letters_as_they_are(here: Here):
    said = here("utf-8", "list", "-r", "backups")
    assert said.stdout.decode().startswith(f"{SET}: ")
    assert is_harmless(said.stdout, "utf-8")


@pytest.mark.parametrize(
    "words", [("list", "-r", "backups"), ("files", "1", "/", "-r", "backups"), ("info", NAME)],
    ids=lambda words: words[0],
)  # fmt: skip
def test_json_is_ascii_whatever_names_it_holds(here: Here, words: tuple[str | bytes, ...]):
    said = here("ascii", *map(os.fsdecode, words), "--json")
    assert said.returncode == 0
    for line in said.stdout.decode("ascii").splitlines():
        json.loads(line)


def test_the_log_holds_no_line_that_a_name_has_forged_and_steers_no_terminal(
    folder: Path, here: Here
):
    here("ascii", "list", "-r", os.fsdecode(NAME))
    log = (folder / "home" / "vdbackup.log").read_bytes()
    assert b"red" in log
    assert is_harmless(log, "utf-8")
    begun = (line.startswith((b"  ", b"20")) for line in log.splitlines())
    assert all(begun), "a line that neither begins with a moment nor belongs to a traceback"


def run_in_shell(folder: Path, line: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash in which V is the program."""
    program = f"{sys.executable} -m vdbackup"
    return subprocess.run(
        ["bash", "-c", line.replace("V ", f"{program} ")],
        cwd=folder,
        env=surroundings(folder, {}),
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [("list -r backups", ""), ("verify -r backups --json", ""), ("--help", "1")],
)
def test_output_that_cannot_be_written_is_one_sentence_and_a_failure(
    folder: Path, words: str, unbuffered: str
):
    said = run_in_shell(folder, f"PYTHONUNBUFFERED={unbuffered} V {words} > /dev/full")
    assert said.returncode == 1
    assert b"What there is to say cannot be written: No space" in said.stderr
    assert len(said.stderr.splitlines()) == (1 if "--json" in words else 2)


def test_who_counts_what_a_command_calls_is_shown_it(folder: Path):
    """A command ends without taking Python apart, unless somebody watches it."""
    arguments = [sys.executable, "-m", "cProfile", "-m", "vdbackup", "--version"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=folder)
    assert "function calls" in done.stdout


def test_a_reader_that_has_gone_ends_a_command_quietly(folder: Path):
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as nobody:
        ended = subprocess.run(
            command(["list", "-r", "backups"]),
            cwd=folder,
            env=surroundings(folder, {}),
            stdout=nobody,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_backup_is_made_also_where_nobody_reads_its_progress(
    folder: Path, tmp_path: Path, here: Here
):
    said = run_in_shell(
        folder, f"V backup \"$(printf '{shell(NAME)}')\" -r '{tmp_path}/new' --json | true"
    )
    assert b"Traceback" not in said.stderr
    points = json.loads(here("utf-8", "list", "-r", str(tmp_path / "new"), "--json").stdout)
    assert len(points["sets"][0]["points"]) == 1


def shell(name: bytes) -> str:
    """A name as printf(1) takes it; its last byte must be no line end."""
    return "".join(f"\\x{byte:02x}" for byte in name)


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_are_nobodys_file(
    folder: Path, tmp_path: Path, here: Here, closed: str
):
    """The first files that are opened would get their numbers: a layer would take complaints."""
    arguments = f"\"$(printf '{shell(NAME)}')\" -r '{tmp_path}/new'"
    said = run_in_shell(folder, f"V -v backup {arguments} {closed}")
    assert said.returncode == 0, said
    assert here("utf-8", "verify", "-r", str(tmp_path / "new")).returncode == 0
    said = run_in_shell(folder, f"V list -r none {closed}")
    assert said.returncode == 1


def test_the_question_for_the_last_point_needs_no_standard_input(
    folder: Path, tmp_path: Path, here: Here
):
    backup = ("backup", str(source(folder)), "-r", str(tmp_path / "new"))
    assert here("utf-8", *backup).returncode == 0
    said = run_in_shell(folder, f"V delete latest -r '{tmp_path}/new' <&-")
    assert said.returncode == 1
    assert b"no backup of its source would remain" in said.stderr


def test_a_phase_is_shown_and_not_obeyed(capfd: pytest.CaptureFixture[str]):
    """Adopting names a file in it."""
    bar = Bar(on_terminal=True)
    bar.report(Progress("Adopt \x1b[31mred\n.vmdk", 1, 2))
    bar.report(Progress("Adopt \x1b[31mred\n.vmdk", 0, 0))
    said = capfd.readouterr().err
    assert said.count(r"Adopt \x1b[31mred\n.vmdk") == 2
    assert "\x1b[31m" not in said
