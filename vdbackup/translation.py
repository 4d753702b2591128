"""What a person reads, in their language: `tr` marks a text, and says it as the catalogue has it.

English stands in the code. A catalogue is a file of gettext's (`resources/locale/de/LC_MESSAGES/
vdbackup.po`), and which one is read the environment says, as gettext(3) has it: LC_ALL, LC_MESSAGES
and LANG, and LANGUAGE before them. It is read as it is, not compiled: that costs some ms once, in
another language than English alone. `packaging/catalogue.py` brings it up to date with the code.

What a program reads stays English: the log, and all that is said to who asks for JSON (`english`).
The language is chosen once for each process, before a module says anything, so that constants can
be said as anything else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

DOMAIN = "vdbackup"
_PACKAGE = Path(__file__).resolve().parent
_FOLDERS = (_PACKAGE / "resources" / "locale", _PACKAGE.parent / "resources" / "locale")
_MARKS = "1,234.5"
"""A number, with the marks for thousands and for what is below one that a language has."""


@dataclass(frozen=True)
class Catalogue:
    """The texts of a language.

    Attributes:
        texts: each by the English one; the forms of one that counts things by its first.
        form: which of them is for a number.
    """

    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    form: Callable[[int], int] = lambda number: int(number != 1)


_ENGLISH = Catalogue()
_spoken: list[Catalogue] = []  # at most one, from the first text on


def english() -> None:
    """Say all in English, from now on."""
    use(_ENGLISH)


def use(catalogue: Catalogue) -> None:
    """Say all by this catalogue, from now on; what it does not have in English."""
    _spoken[:] = [catalogue]


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` is among the arguments, which need not be right otherwise.

    As argparse reads them: it may be shortened, and after `--` come names.
    """
    options = takewhile(lambda each: each != "--", arguments)
    return any(len(each) > len("--") and "--json".startswith(each) for each in options)


def tr(text: str, /, **values: object) -> str:
    """A text in the user's language, with values in the places that it names, such as {path}."""
    said = _catalogue().texts.get(text, (text,))[0]
    return said.format(**values) if values else said


def trn(one: str, many: str, count: int, /, **values: object) -> str:
    """What says a number in the user's language: of one thing, or of {count}."""
    catalogue = _catalogue()
    forms = catalogue.texts.get(one, (one, many))
    said = forms[min(catalogue.form(count), len(forms) - 1)]
    return said.format(count=grouped(count), **values)


def marked(text: str) -> str:
    """The text itself, which stands in the catalogues: for what is said by `tr` somewhere else."""
    return text


def markedn(one: str, many: str) -> tuple[str, str]:
    """The same for what is said by `trn`."""
    return one, many


def grouped(value: int) -> str:
    """A whole number, in groups of three digits."""
    return decimal(f"{value:,}")


def decimal(written: str) -> str:
    """A number that is written as in English, "1,234.5", as it is in the user's language."""
    marks = tr(_MARKS)
    return written.translate({ord(","): marks[1], ord("."): marks[5]})


def language() -> str:
    """Which language there is a catalogue of, and is wanted; "" for English."""
    return next((name for name in wanted(os.environ) if _file(name)), "")


def wanted(environ: Mapping[str, str]) -> list[str]:
    """The languages that the user reads, the best one first, up to English."""
    names = (environ.get(each, "") for each in ("LC_ALL", "LC_MESSAGES", "LANG"))
    locale = next(filter(None, names), "C")
    if locale.partition(".")[0] in ("C", "POSIX"):
        return []
    found: list[str] = []
    for name in (*environ.get("LANGUAGE", "").split(":"), locale):
        whole = re.split("[.@]", name)[0]
        tongue = whole.partition("_")[0]
        if tongue in ("en", "C"):
            break
        if re.fullmatch("[A-Za-z]+(_[A-Za-z]+)?", whole):  # it becomes a part of a path
            found += [whole, tongue]
    return list(dict.fromkeys(found))


def read(file: Path) -> Catalogue:
    """A catalogue; what is fuzzy or has no translation is left out."""
    texts: dict[str, list[str]] = {}
    for entry in file.read_text(encoding="utf-8").split("\n\n"):
        parts = _parts(entry)
        forms = [text for name, text in parts.items() if name.startswith("msgstr")]
        if parts.get("msgid") is not None and all(forms):
            texts[parts["msgid"]] = forms
    header = texts.pop("", [""])[0]
    plural = re.search(r"plural=(.*);", header)
    if plural is None:
        return Catalogue(texts)
    from gettext import c2py

    return Catalogue(texts, c2py(plural[1]))


def _parts(entry: str) -> dict[str, str]:
    """What an entry says, by its keywords."""
    parts: dict[str, str] = {}
    keyword = ""
    for line in entry.split("\n"):
        if line.startswith("#, ") and "fuzzy" in line:
            return {}
        if line.startswith("msg"):
            keyword = line.partition(" ")[0]
            parts[keyword] = ""
        said = line.removeprefix(f"{keyword} ")
        if keyword and said.startswith('"'):
            parts[keyword] += _unescaped(said[1:-1])
    return parts


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text)


def _catalogue() -> Catalogue:
    if not _spoken:
        name = language()
        file = _file(name) if name else None
        use(read(file) if file else _ENGLISH)
    return _spoken[0]


def _file(name: str) -> Path | None:
    places = (folder / name / "LC_MESSAGES" / f"{DOMAIN}.po" for folder in _FOLDERS)
    return next((place for place in places if place.is_file()), None)
