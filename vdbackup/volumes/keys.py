"""Keys of what is encrypted on a disk: those that may open any volume, and those for one of them.

Whoever looks at many points opens the same volumes in each; what a passphrase has opened once is
opened again without the seconds that its hashing takes. All of it lies in memory alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Keys:
    """What may be a key; see encryption.unlock for what one can be. False if there are none.

    Attributes:
        of_any: tried at each volume that no key is named for.
        of_one: pairs of a volume's name, as Volumes lists it, and what is tried at that alone.
        opened: what has opened volumes, by what these say of it (encryption.py).
    """

    of_any: tuple[bytes, ...] = field(default=(), repr=False)  # no log is told
    of_one: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    opened: dict[bytes, bytes] = field(default_factory=dict, repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.of_any or self.of_one)

    @property
    def names(self) -> list[str]:
        """Volumes that one is named for, each once."""
        return list(dict.fromkeys(name for name, _ in self.of_one))

    def of(self, name: str) -> Sequence[bytes]:
        """What is tried at a volume, one after the other."""
        own = tuple(secret for each, secret in self.of_one if each == name)
        return own or self.of_any

    def also(self, secret: bytes) -> Keys:
        """These and one more, which may open any volume."""
        return Keys((*self.of_any, secret), self.of_one, self.opened)
