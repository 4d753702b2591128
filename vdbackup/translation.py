"""What a person reads, in their language: `tr` marks a text, and says it as the catalogue has it.

English stands in the code. A catalogue is a file of gettext's (`resources/locale/de/LC_MESSAGES/
vdbackup.po`), and which one is read the environment says, as gettext(3) has it: LC_ALL, LC_MESSAGES
and LANG, and LANGUAGE before them. It is read as it is, not compiled: that costs some ms once, in
another language than English alone. `packaging/catalogue.py` brings it up to date with the code.

What a program reads stays English: the log, all that is said to who asks for JSON (`english`), and
what is kept for later. For that a text knows what it is in English (`original`), and what was kept,
or comes from the service, which knows no user, is said in the user's language again (`again`). The
language is chosen once for each process, before a module says anything, so that constants can be
said as anything else.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

DOMAIN = "vdbackup"
_PACKAGE = Path(__file__).resolve().parent
_FOLDERS = (_PACKAGE / "resources" / "locale", _PACKAGE.parent / "resources" / "locale")


@dataclass(frozen=True)
class Catalogue:
    """The texts of a language.

    Attributes:
        texts: each by the English one; the forms of one that counts things by its first.
        form: which of them is for a number.
    """

    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    form: Callable[[int], int] = lambda number: int(number != 1)


class Said(str):
    """A text in the user's language.

    Attributes:
        english: the same in English.
    """

    __slots__ = ("english",)
    english: str


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
    catalogue = _catalogue()
    if catalogue is _ENGLISH:
        return text.format(**values) if values else text
    said = catalogue.texts.get(text, (text,))[0]
    if not values:
        return _known(said, text)
    return _known(said.format(**values), text.format(**_originals(values)))


def trn(one: str, many: str, count: int, /, **values: object) -> str:
    """What says a number in the user's language: of one thing, or of {count}."""
    catalogue = _catalogue()
    forms = catalogue.texts.get(one, (one, many))
    said = forms[min(catalogue.form(count), len(forms) - 1)]
    text = (one if count == 1 else many).format(count=f"{count:,}", **_originals(values))
    return _known(said.format(count=grouped(count), **values), text)


def original(text: str) -> str:
    """A text in English, whatever language it was said in."""
    return text.english if isinstance(text, Said) else text


def again(text: str) -> str:
    """What was said in English, in the user's language: a text as it stands, or one with values."""
    if isinstance(text, Said) or not _catalogue().texts:
        return text
    said = _said_again(text)
    return text if said is None else _known(said, text)


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
    marks = tr("1,234.5")  # as the language writes that
    return _known(written.translate({ord(","): marks[1], ord("."): marks[5]}), written)


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
    """A catalogue; what has no translation is left out."""
    texts: dict[str, list[str]] = {}
    one, many, forms = "", "", []
    for keyword, quoted in _LINES.findall(file.read_text(encoding="utf-8") + "\nmsgid"):
        said = _unescaped(quoted.strip()[1:-1].replace('"\n"', ""))
        if keyword.startswith("msgstr"):
            forms.append(said)
        elif keyword == "msgid_plural":
            many = said
        else:
            if all(forms):
                texts[one] = forms
                if many:  # as what was said of many is found again
                    texts.setdefault(many, forms[1:])
            one, many, forms = said, "", []
    header = texts.pop("", [""])[0]
    plural = re.search(r"plural=(.*);", header)
    if plural is None:
        return Catalogue(texts)
    from gettext import c2py

    return Catalogue(texts, c2py(plural[1]))


_LINES = re.compile(r'^(msg[a-z_]+)(?:\[\d\])?((?: ?".*"\n?)*)', re.MULTILINE)
"""A keyword and the texts behind it, which are one."""


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text)


def _known(said: str, english: str) -> str:
    if said == english:
        return said
    known = Said(said)
    known.english = english
    return known


def _originals(values: Mapping[str, object]) -> dict[str, object]:
    return {
        name: original(value) if isinstance(value, str) else value for name, value in values.items()
    }


@functools.lru_cache(10_000)
def _said_again(text: str) -> str | None:
    texts = _catalogue().texts
    if text in texts:
        return texts[text][-1] if "{" not in text else None
    found = [template for head, tail, template in _templates() if _fits(text, head, tail)]
    for template in sorted(found, key=len, reverse=True):  # what leaves least to its values first
        if match := re.fullmatch(_PLACE.sub(_captured, re.escape(template)), text, re.DOTALL):
            values = {name: again(value) for name, value in match.groupdict().items()}
            return _filled(texts[template][-1], values)
    return None


_PLACE = re.compile(r"\\{(\w+)[^{}]*\\}")
"""A place for a value in an escaped text."""


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"{(\w+)[^{}]*}", lambda place: values.get(place[1], place[0]), text)


def _captured(place: re.Match[str]) -> str:
    return f"(?P<{place[1]}>.+?)"


def _fits(text: str, head: str, tail: str) -> bool:
    return text.startswith(head) and text.endswith(tail)


_TELLING = 8
"""Letters of its own by which a text is told from others."""


@functools.cache
def _templates() -> list[tuple[str, str, str]]:
    """Texts with places for values, and what stands before the first and behind the last."""
    return [
        (text.partition("{")[0], text.rpartition("}")[2], text)
        for text in _catalogue().texts
        if len(re.findall("[A-Za-z]", re.sub("{[^{}]*}", "", text))) >= _TELLING
        and len(names := re.findall(r"{(\w+)", text)) == len(set(names)) > 0
    ]


def _catalogue() -> Catalogue:
    if not _spoken:
        name = language()
        file = _file(name) if name else None
        use(read(file) if file else _ENGLISH)
    return _spoken[0]


def _file(name: str) -> Path | None:
    places = (folder / name / "LC_MESSAGES" / f"{DOMAIN}.po" for folder in _FOLDERS)
    return next((place for place in places if place.is_file()), None)
