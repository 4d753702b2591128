"""Brings the catalogues of translations up to date with the code: python packaging/catalogue.py.

Each text that `vdbackup.translation` is asked for gets an entry in every `resources/locale/*/
LC_MESSAGES/vdbackup.po`. What was translated stays so; what no text is any more goes; what is new
comes without a translation, and is named. A text that was changed is a new one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from vdbackup.translation import DOMAIN, read  # noqa: E402 - of this checkout

PACKAGE = CHECKOUT / "vdbackup"
LOCALES = CHECKOUT / "resources" / "locale"
ASKED = {"tr": 1, "marked": 1, "trn": 2, "markedn": 2}
"""What names a text, and how many forms of it."""
_WIDTH = 96

Text = tuple[str, ...]
"""One form, or that for one and that for many."""


def texts(package: Path = PACKAGE) -> dict[Text, list[str]]:
    """Every text that is asked for, and the modules that do."""
    found: dict[Text, list[str]] = {}
    for module in sorted(package.rglob("*.py")):
        for text in _asked(ast.parse(module.read_text(encoding="utf-8"))):
            places = found.setdefault(text, [])
            place = str(module.relative_to(package))
            if place not in places:
                places.append(place)
    counted = {text[0] for text in found if len(text) > 1}
    return {text: where for text, where in found.items() if len(text) > 1 or text[0] not in counted}


def catalogues() -> list[Path]:
    """The files, one for each language."""
    return sorted(LOCALES.glob(f"*/LC_MESSAGES/{DOMAIN}.po"))


def updated(file: Path, wanted: dict[Text, list[str]]) -> str:
    """What a catalogue should be: its header, and an entry for each text."""
    header = file.read_text(encoding="utf-8").split("\n\n")[0]
    known = read(file).texts
    entries = [header]
    for text, where in wanted.items():
        said = known.get(text[0], ("",) * len(text))
        lines = [f"#: {place}" for place in where]
        lines += [_line("msgid", text[0])]
        if len(text) == 1:
            lines += [_line("msgstr", said[0])]
        else:
            lines += [_line("msgid_plural", text[1])]
            lines += [_line(f"msgstr[{form}]", each) for form, each in enumerate(said)]
        entries.append("\n".join(lines))
    return "\n\n".join(entries) + "\n"


def _asked(tree: ast.Module) -> Iterator[Text]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        if isinstance(call.func, ast.Name) and call.func.id in ASKED:
            said = call.args[: ASKED[call.func.id]]
            forms = tuple(
                each.value
                for each in said
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            )
            if forms and len(forms) == len(said):
                yield forms


def _line(keyword: str, text: str) -> str:
    """A keyword and its text, broken at spaces where it is long."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    escaped = escaped.replace("\t", "\\t")
    if len(keyword) + len(escaped) < _WIDTH:
        return f'{keyword} "{escaped}"'
    lines = [f'{keyword} ""']
    while len(escaped) > _WIDTH and (end := escaped.rfind(" ", 0, _WIDTH)) > 0:
        lines.append(f'"{escaped[: end + 1]}"')
        escaped = escaped[end + 1 :]
    return "\n".join([*lines, f'"{escaped}"'])


def main() -> int:
    """Write all of them anew; 1 where something is not translated."""
    wanted = texts()
    missing = 0
    for file in catalogues():
        file.write_text(updated(file, wanted), encoding="utf-8")
        known = read(file).texts
        for text in wanted:
            if text[0] not in known:
                missing += 1
                sys.stdout.write(f"{file.parents[1].name}: {text[0]!r}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
