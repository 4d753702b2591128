"""What a boot loader's configuration starts, read as text line by line; nothing is executed.

GRUB's of both generations, the entries of the Boot Loader Specification (systemd-boot, GRUB of
Fedora), SYSLINUX's, LILO's, Limine's, rEFInd's.

Sources: GRUB's manual; https://uapi-group.org/specifications/specs/boot_loader_specification/;
https://wiki.syslinux.org/wiki/index.php?title=Config; lilo.conf(5);
https://github.com/limine-bootloader/limine, CONFIG.md; https://www.rodsbooks.com/refind/linux.html
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_ENTRIES = 500
MAX_QUOTED = 8192
"""Letters of a line with quotations; Linux takes 4,096, and shlex the square of a word's time."""
_GRUB_LINUX = re.compile(r"\s*linux(?:16|efi)?\s+(\S+)\s*(.*)")
_GRUB_INITRD = re.compile(r"\s*initrd(?:16|efi)?\s+(.+)")
_GRUB_DEFAULT = re.compile(r"\s*set\s+default=[\"']?(\d+)[\"']?\s*$")
_LEGACY_DEFAULT = re.compile(r"\s*default[\s=]+(\d+)\s*$")
_LEGACY_KERNEL = re.compile(r"\s*kernel[\s=]+(?:--\S+\s+)*(\S+)\s*(.*)")
_LEGACY_INITRD = re.compile(r"\s*initrd[\s=]+(\S+)")
_GRUB_DEVICE = re.compile(r"^\([^)]*\)")
"""The volume in a path; without one it is that of the variable root."""
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")

_LILO_EQUALS = re.compile(r"^(\s*[\w-]+)\s*=\s*")
"""Around its first sign of equality a line may have spaces."""

_LIMINE_TITLE = re.compile(r"\s*([/:]+)(\+?)([^/:].*)")
_LIMINE_MACRO = re.compile(r"\s*\$\{(\w+)\}\s*=(.*)")
_LIMINE_USE = re.compile(r"\$\{(\w+)\}")
_LIMINE_OPTION = re.compile(r"\s*(\w+)\s*[:=]\s*(.*)")


@dataclass
class Entry:
    """What a boot loader can start.

    Attributes:
        title: in its menu.
        image: the kernel's path as it stands there.
        initramfs: likewise.
        command_line: for the kernel.
        line: on which the kernel's options stand, from 1 on.
    """

    title: str
    image: str = ""
    initramfs: list[str] = field(default_factory=list)
    command_line: str = ""
    line: int = 0


def grub(text: str) -> list[Entry]:
    """The entries of a grub.cfg, the one that starts automatically first."""
    found: list[Entry] = []
    default, title = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _GRUB_DEFAULT.match(line):
            default = int(match[1])
        elif line.lstrip().startswith("menuentry "):
            title = [*_words(line), "", ""][1]
        elif (match := _GRUB_LINUX.match(line)) and len(found) < MAX_ENTRIES:
            image = _GRUB_DEVICE.sub("", match[1].strip("\"'"))
            found.append(Entry(title, image, [], match[2].strip(), number))
        elif (match := _GRUB_INITRD.match(line)) and found:
            found[-1].initramfs += [_GRUB_DEVICE.sub("", word) for word in _words(match[1])]
    return _first(found, default)


def grub_legacy(text: str) -> list[Entry]:
    """The entries of a menu.lst or grub.conf of GRUB 0.97, the one that starts automatically first.

    What starts no Linux counts, too.
    """
    found: list[Entry] = []
    default = 0
    for number, line in enumerate(text.splitlines(), 1):
        if match := _LEGACY_DEFAULT.match(line):
            default = int(match[1][:9])
        elif line.split()[:1] == ["title"] and len(found) < MAX_ENTRIES:
            found.append(Entry(line.strip().removeprefix("title").strip()))
        elif found and (match := _LEGACY_KERNEL.match(line)):
            image = _GRUB_DEVICE.sub("", match[1])
            found[-1].image, found[-1].command_line = image, match[2].strip()
            found[-1].line = number
        elif found and (match := _LEGACY_INITRD.match(line)):
            found[-1].initramfs.append(_GRUB_DEVICE.sub("", match[1]))
    return [entry for entry in _first(found, default) if entry.image]


def loader_entry(text: str, variables: Mapping[str, str]) -> Entry:
    """A file of loader/entries; `variables` are those of GRUB's environment block."""
    entry = Entry("")
    options: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.strip().partition(" ")
        value = _VARIABLE.sub(lambda match: variables.get(match[1], ""), value.strip())
        match key:
            case "title":
                entry.title = value
            case "linux":
                entry.image = value
            case "initrd":
                entry.initramfs += value.split()
            case "options":
                options.append(value)
                entry.line = number
    entry.command_line = " ".join(" ".join(options).split())
    return entry


def environment_block(text: str) -> dict[str, str]:
    """The variables of GRUB's grubenv."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in pairs if equals}


def preferred(names: list[str], loader_conf: str) -> list[str]:
    """The names of loader/entries, what loader.conf prefers first, then the newest."""
    ordered = sorted(names, key=version_key, reverse=True)
    for line in loader_conf.splitlines():
        key, _, pattern = line.strip().partition(" ")
        if key == "default":
            wanted = pattern.strip().removesuffix(".conf") + ".conf"
            chosen = [name for name in ordered if fnmatch.fnmatch(name, wanted)][:1]
            return chosen + [name for name in ordered if name not in chosen]
    return ordered


def syslinux(text: str) -> list[Entry]:
    """The entries of a syslinux.cfg or extlinux.conf, the one that starts automatically first."""
    found: list[Entry] = []
    default = ""
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.strip().partition(" ")
        value = value.strip()
        match key.upper():
            case "DEFAULT" | "ONTIMEOUT":
                default = value
            case "LABEL" if len(found) < MAX_ENTRIES:
                found.append(Entry(value))
            case "KERNEL" | "LINUX" if found:
                found[-1].image = value
            case "INITRD" if found:
                found[-1].initramfs += value.split(",")
            case "APPEND" if found:
                _append(found[-1], value, number)
    chosen = next((i for i, entry in enumerate(found) if entry.title == default), 0)
    return [entry for entry in _first(found, chosen) if entry.image]


def lilo(text: str) -> list[Entry]:
    """The entries of a lilo.conf, the one that starts automatically first; "other" ones are none.

    What stands before the first of them holds for all that do not say otherwise.
    """
    common: dict[str, tuple[str, int]] = {}
    found: list[tuple[str, dict[str, tuple[str, int]]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        for word in _lilo_words(line):
            key, _, value = word.partition("=")
            key = key.lower()
            if key in ("image", "other"):
                if len(found) == MAX_ENTRIES:
                    break
                found.append((value if key == "image" else "", {}))
            else:
                (found[-1][1] if found else common)[key] = value, number
    entries = [_lilo_entry(image, {**common, **said}) for image, said in found]
    wanted = common.get("default", ("", 0))[0]
    names = [{said.get(key, ("", 0))[0] for key in ("label", "alias")} for _, said in found]
    chosen = next((i for i, own in enumerate(names) if wanted and wanted in own), 0)
    return [entry for entry in _first(entries, chosen) if entry.image]


def _lilo_words(line: str) -> list[str]:
    """Options of a line, each as KEY=VALUE without quotation marks."""
    if line.lstrip().startswith("#"):
        return []
    return _words(_LILO_EQUALS.sub(r"\1=", line, count=1))


def _lilo_entry(image: str, said: Mapping[str, tuple[str, int]]) -> Entry:
    def value(key: str) -> str:
        return said.get(key, ("", 0))[0]

    root = value("root")
    words = [f"root={root}"] if root and root != "current" else []
    words += [word for word, key in (("ro", "read-only"), ("rw", "read-write")) if key in said]
    words += [value("append"), value("addappend")]
    line = max(said.get(key, ("", 0))[1] for key in ("root", "append", "literal"))
    told = value("literal") or " ".join(filter(None, words))
    initramfs = [value("initrd")] if value("initrd") else []
    return Entry(value("label"), image, initramfs, told, said.get("root", ("", line))[1])


def limine(text: str) -> list[Entry]:
    """The entries of a limine.conf, or of a limine.cfg (until 2024).

    The one that starts automatically comes first: its number counts the lines of the menu, in which
    the entries of a folder are seen only where it is unfolded. A folder starts nothing.
    """
    found: list[Entry] = []
    shown: list[int] = []
    folded = 0  # the depth of a folder that hides what is deeper; 0 where none does
    macros: dict[str, str] = {}
    default = 1
    for number, line in enumerate(text.splitlines(), 1):
        if match := _LIMINE_MACRO.match(line):
            macros[match[1]] = match[2].strip()
        elif title := _LIMINE_TITLE.match(line):
            if len(found) == MAX_ENTRIES:
                break
            depth = len(title[1])
            if not folded or depth <= folded:
                shown.append(len(found))
                folded = 0 if title[2] else depth
            found.append(Entry(title[3].strip()))
        elif match := _LIMINE_OPTION.match(line):
            key, value = match[1].lower(), _with_macros(match[2].strip(), macros)
            if key == "default_entry" and value.isascii() and value.isdigit():
                default = int(value[:9])
            elif found:
                _limine_option(found[-1], key, value, number)
    chosen = shown[default - 1] if 0 < default <= len(shown) else 0
    return [entry for entry in _first(found, chosen) if entry.image]


def _with_macros(text: str, macros: Mapping[str, str]) -> str:
    return _LIMINE_USE.sub(lambda match: macros.get(match[1], match[0]), text)[:MAX_QUOTED]


def _limine_option(entry: Entry, key: str, value: str, number: int) -> None:
    match key:
        case "path" | "kernel_path":
            entry.image = _limine_path(value)
        case "module_path":
            entry.initramfs.append(_limine_path(value))
        case "cmdline" | "kernel_cmdline":
            entry.command_line, entry.line = value, number


def _limine_path(value: str) -> str:
    """boot():/vmlinuz#HASH, boot:///vmlinuz: "/vmlinuz"."""
    path = re.sub(r"^[$]?[a-z]+(\([^)]*\):|://[^/]*)", "", value).partition("#")[0]
    return "/" + path.lstrip("/")


def refind_linux(text: str) -> list[Entry]:
    """The options of a refind_linux.conf, which lies beside the kernels: a title, a command line.

    The kernel is whichever is chosen in rEFInd's menu.
    """
    found = []
    for number, line in enumerate(text.splitlines()[:MAX_ENTRIES], 1):
        words = [] if line.lstrip().startswith("#") else _words(line)
        if len(words) >= 2:
            found.append(Entry(words[0], command_line=words[1], line=number))
    return found


@dataclass
class _Stanza:
    """What stands between the braces of a `menuentry`, or of a `submenuentry` within one."""

    entry: Entry
    parent: _Stanza | None = None
    disabled: bool = False
    added: str = ""

    @property
    def is_offered(self) -> bool:
        return not self.disabled and (self.parent is None or not self.parent.disabled)

    def put(self, key: str, value: str, number: int) -> None:
        match key:
            case "loader" if not self.entry.image:
                self.entry.image = value.replace("\\", "/")
            case "initrd":
                self.entry.initramfs.append(value.replace("\\", "/"))
            case "options" if not self.entry.line:
                self.entry.command_line, self.entry.line = value, number
            case "add_options":
                self.added = value
            case "disabled":
                self.disabled = True

    def whole(self) -> Entry:
        """The entry with what it takes from the one that it stands in: all it does not say."""
        own, above = self.entry, self.parent.entry if self.parent else self.entry
        options, line = (
            (own.command_line, own.line) if own.line else (above.command_line, above.line)
        )
        return Entry(
            own.title,
            own.image or above.image,
            own.initramfs or above.initramfs,
            f"{options} {self.added}".strip(),
            line,
        )


def refind(text: str) -> list[Entry]:
    """The entries that stand in a refind.conf itself; those that are disabled are left out.

    What can be chosen below an entry comes right after it.
    """
    found: list[_Stanza] = []
    current: _Stanza | None = None
    for number, line in enumerate(text.splitlines(), 1):
        key, value, *_ = [*_words(line), "", ""]
        if key in ("menuentry", "submenuentry") and len(found) == MAX_ENTRIES:
            break
        if key == "menuentry" or (key == "submenuentry" and current is not None):
            above = current.parent or current if current and key == "submenuentry" else None
            current = _Stanza(Entry(value), above)
            found.append(current)
        elif current is not None and key == "}":
            current = current.parent
        elif current is not None:
            current.put(key, value, number)
    every = [stanza.whole() for stanza in found if stanza.is_offered]
    return [entry for entry in every if entry.image and entry.command_line]


def version_key(name: str) -> list[tuple[int, str]]:
    """Orders names by the numbers in them: 6.1.0-9 before 6.1.0-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _append(entry: Entry, value: str, number: int) -> None:
    words = value.split()
    for word in words:
        if word.startswith("initrd="):
            entry.initramfs += word.removeprefix("initrd=").split(",")
    entry.command_line = " ".join(word for word in words if not word.startswith("initrd="))
    entry.line = number


def _first(entries: list[Entry], chosen: int) -> list[Entry]:
    if not 0 < chosen < len(entries):
        return entries
    return [entries[chosen], *entries[:chosen], *entries[chosen + 1 :]]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line) if len(line) <= MAX_QUOTED else line.split()
    except ValueError:  # a quotation that does not end
        return line.split()
