"""Lists of modules that lose entries, such as decoder layers or experts: names, numbers, check by a rebuild."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn

from moeverify.models.skeleton import changed_attributes, shapes_of

Number = tuple[str, str]  # (module inside of an entry, attribute)


@dataclass(frozen=True, eq=False)
class ListCut:
    """Entries that a list of modules keeps: ``kept`` are numbers in ``children``, ascending.

    ``children`` are the names of all entries in ``container``, e.g. ``("0", "1", "2")``. ``followed``: numbers behind
    the last entry move up. Checkpoints store layers that predict further tokens there, which no list holds.
    """

    container: str
    children: tuple[str, ...]
    kept: np.ndarray
    followed: bool = False

    @classmethod
    def of_numbers(cls, container: str, before: int, kept: np.ndarray) -> ListCut:
        """The cut of a list of layers, which are named 0, 1, 2, ..."""
        return cls(container, tuple(map(str, range(before))), kept, followed=True)

    @property
    def before(self) -> int:
        """Number of entries in the original."""
        return len(self.children)

    def renamed(self, name: str) -> str | None:
        """The name of a parameter or module afterwards; ``None`` if it goes with its entry.

        >>> cut = ListCut.of_numbers("layers", 3, np.array([0, 2]))
        >>> cut.renamed("layers.2.norm"), cut.renamed("layers.1.norm"), cut.renamed("layers.3.norm")
        ('layers.1.norm', None, 'layers.2.norm')
        """
        prefix = f"{self.container}." if self.container else ""
        if not name.startswith(prefix):
            return name
        child, dot, rest = name.removeprefix(prefix).partition(".")
        if child not in self.children:
            behind = self.followed and child.isdigit() and int(child) >= self.before
            return f"{prefix}{int(child) - self.before + len(self.kept)}{dot}{rest}" if behind else name
        place = np.flatnonzero(self.kept == self.children.index(child))
        return f"{prefix}{self.children[int(place[0])]}{dot}{rest}" if len(place) else None


class Renames(Protocol):
    """A removal after which some parameters have other names, such as a ``ListCut``."""

    def renamed(self, name: str) -> str | None:
        """The name of a parameter afterwards; ``None`` if it is removed."""


def renamed(name: str, cuts: Iterable[Renames]) -> str | None:
    """Name of a parameter after all cuts; ``None`` if it is removed."""
    for cut in cuts:
        new = cut.renamed(name)
        if new is None:
            return None
        name = new
    return name


def shorten(model: nn.Module, cut: ListCut) -> None:
    """Remove entries in place; those that stay get the names, and hold the numbers, of their new places."""
    container = model.get_submodule(cut.container)
    entries = [container._modules[name] for name in cut.children]
    numbers = _own_numbers([entry for entry in entries if entry is not None])
    for name in cut.children:
        del container._modules[name]
    for new, old in enumerate(cut.kept.tolist()):
        entry = entries[old]
        assert entry is not None
        container._modules[cut.children[new]] = entry
        inside = dict(entry.named_modules())
        for path, attribute in numbers:
            if path in inside and attribute in vars(inside[path]):
                setattr(inside[path], attribute, new)


def _own_numbers(entries: Sequence[nn.Module]) -> set[Number]:
    """Attributes in which every entry that has them holds its own number.

    One that a single entry has counts if another attribute of its name does: a list may hold layers of several kinds.
    """
    held: dict[Number, list[bool]] = {}
    for number, entry in enumerate(entries):
        for path, module in entry.named_modules():
            for name, value in vars(module).items():
                if type(value) is int:
                    held.setdefault((path, name), []).append(value == number)
    own = {key for key, right in held.items() if all(right)}
    certain = {name for path, name in own if len(held[path, name]) > 1}
    return {(path, name) for path, name in own if name in certain}


def differences(short: nn.Module, built: nn.Module, cuts: Iterable[ListCut]) -> Iterator[str]:
    """Lines on what a model that was built afresh has otherwise than one whose lists were shortened.

    Tensors and plain attributes of modules are compared. Exception: a count of entries, and a list with one item for
    each entry, outside of the lists.
    """
    wanted, found = shapes_of(short), shapes_of(built)
    for name in (name for name in wanted if wanted[name] != found.get(name)):
        yield (
            f"{name} has shape {list(found[name])}, not {list(wanted[name])}" if name in found else f"it has no {name}"
        )
    for name in (name for name in found if name not in wanted):
        yield f"it has {name} as well"
    if wanted.keys() != found.keys():
        return
    modules, cuts = dict(short.named_modules()), tuple(cuts)
    for (path, name), value in changed_attributes(short, built).items():
        old = getattr(modules[path], name)
        if not any(_follows(path, old, value, cut) for cut in cuts):
            where = f"{path}.{name}" if path else name
            yield f"{where} is {value!r}, not {old!r}"


def _follows(path: str, old: Any, new: Any, cut: ListCut) -> bool:
    """Whether an attribute outside of a list counts its entries, or holds one item for each."""
    if f"{path}.".startswith(f"{cut.container}."):
        return False
    if type(old) is int:
        return (old, new) == (cut.before, len(cut.kept))
    return isinstance(old, list | tuple) and len(old) == cut.before and list(new) == [old[n] for n in cut.kept]
