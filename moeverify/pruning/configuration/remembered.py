"""Cache of what an architecture built from changed entries, for later plans in the same process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from moeverify.base.entries import EntryPath
from moeverify.models.forward import Example
from moeverify.pruning.configuration.built import Built
from moeverify.pruning.configuration.short_builds import ShortBuilds

# Inputs of other kinds may hold anything.
_PLAIN = (torch.Tensor, int, float, bool, str, type(None))
# Forms of example inputs whose forwards are kept for one architecture.
_MOST_FORMS = 4


@dataclass(eq=False)
class Remembered:
    """Cached results for one architecture.

    ``original``: the skeleton without changes. ``short_builds``: its builds with representative layers only.
    ``in_full``: whether all layers are built. ``built``: results by changed entries, ``None`` if refused. ``rules``:
    the architecture's error messages by refused entries. ``read``: names that a build asks of configurations.
    ``pins``, ``moves``: what the builds say of each entry (see ``Probe``). ``forwards``: recorded forwards of the
    unchanged skeleton, by the form of the example and by everything else that they depend on.
    """

    original: nn.Module | None = None
    short_builds: ShortBuilds | None = None
    in_full: bool = False
    built: dict[tuple, Built | None] = field(default_factory=dict)
    rules: dict[tuple, str] = field(default_factory=dict)
    read: frozenset[str] = frozenset()
    pins: Mapping[EntryPath, int] | None = None
    moves: Sequence[Any] | None = None
    forwards: OrderedDict[Hashable, dict[Hashable, Any]] = field(default_factory=OrderedDict)
    _by_example: WeakKeyDictionary[Example, dict[Hashable, Any]] = field(default_factory=WeakKeyDictionary)

    def forget_builds(self) -> None:
        """Drop all that trials of entries have shown."""
        self.built.clear()
        self.rules.clear()
        self.pins = self.moves = None

    def forwards_of(self, example: Example) -> dict[Hashable, Any]:
        """Cache of recorded forwards on one example, shared by examples of the same form."""
        if (form := form_of(example)) is None:
            return self._by_example.setdefault(example, {})
        return recently_used(self.forwards, form, {}, _MOST_FORMS)


def form_of(example: Example) -> Hashable | None:
    """Key of all that a forward without weights depends on: structure, plain values, and tensors without their values.

    ``None`` if there is no such key: for a call of the user's own, and for inputs that are neither plain nor tensors.
    """
    leaves, structure = tree_flatten(example.inputs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if example.forward_fn is not None or not all(type(leaf) in _PLAIN for leaf in leaves):
        return None
    if any(t.layout is not torch.strided for t in tensors):
        return None
    memory = [t.untyped_storage()._cdata for t in tensors]
    aliases = tuple((memory.index(place), t.storage_offset()) for place, t in zip(memory, tensors, strict=True))
    described = tuple(
        (tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else repr(leaf)
        for leaf in leaves
    )
    surroundings = torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    return str(structure), described, aliases, surroundings


# By class, document and shapes: models of one architecture share it, and so do the plans of one model.
_ARCHITECTURES: OrderedDict[Hashable, Remembered] = OrderedDict()
_MOST_ARCHITECTURES = 4


def remembered(key: Hashable) -> Remembered:
    """Cache of an architecture; the least recently used ones are dropped."""
    return recently_used(_ARCHITECTURES, key, Remembered(), _MOST_ARCHITECTURES)


def recently_used(cache: OrderedDict[Hashable, Any], key: Hashable, new: Any, most: int) -> Any:
    """The entry of a cache, or ``new``; only the ``most`` recently used entries stay."""
    entry = cache.setdefault(key, new)
    cache.move_to_end(key)
    while len(cache) > most:
        cache.popitem(last=False)
    return entry
