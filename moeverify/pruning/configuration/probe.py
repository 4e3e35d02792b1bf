"""Meaning of each entry of a configuration: change one, rebuild on the meta device, see which dimensions change.

No table of architectures is needed; whatever an architecture calls its hidden size, doubling it doubles the dimensions
that are hidden channels.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from moeverify.base.entries import EntryPath, name_of, with_entries
from moeverify.base.foreign import left_by
from moeverify.coupling.tracing.weightless import without_weights
from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.models.skeleton import Attribute, Shapes, changed_attributes, configured_part, shapes_of, skeleton
from moeverify.pruning.configuration import document as doc
from moeverify.pruning.configuration.built import Built
from moeverify.pruning.configuration.factors import Dim, FixedFactors
from moeverify.pruning.configuration.pins import found_pins
from moeverify.pruning.configuration.reads import recorded_reads
from moeverify.pruning.configuration.remembered import Remembered, remembered
from moeverify.pruning.configuration.short_builds import OtherTensors, ShortBuilds

Entries = dict[EntryPath, int]

if TYPE_CHECKING:
    from moeverify.pruning.constants.views import View


@dataclass(frozen=True)
class Move:
    """Entries that change together, by a factor (``up``) or by its inverse (``down``), and what that does.

    ``slopes``: positions that a doubling adds, by parameter dimension. ``attributes``: module attributes that it
    changes, with the new values. Most moves have one entry. A move has two if the architecture checks a relation
    between them, e.g. heads x head size = expansion x hidden size. A move without slopes is *silent*: no shape changes.
    """

    up: tuple[EntryPath, ...]
    down: tuple[EntryPath, ...]
    slopes: Mapping[Dim, int]
    attributes: Mapping[Attribute, Any] = field(default_factory=dict)
    constants: bool = False

    @property
    def name(self) -> str:
        """The entries as users write them, e.g. ``num_heads with head_dim``."""
        return " with ".join(name_of(path) for path in (*self.up, *self.down))

    def scaled(self, values: Mapping[EntryPath, int], numerator: int, denominator: int) -> Entries | None:
        """The entries times ``numerator / denominator``; ``None`` if one of them is no whole number then."""
        result = {}
        for paths, over, under in ((self.up, numerator, denominator), (self.down, denominator, numerator)):
            for path in paths:
                new, rest = divmod(values[path] * over, under)
                if rest or new < 1:
                    return None
                result[path] = new
        return result


class Probe:
    """Builds skeletons of one model under changed configurations, and caches their shapes and attributes.

    Trials of a deep model build representative layers only (``short_builds.py``).

    ``fixed``: sizes of factors that must stay (see ``fixed_factors``). ``apart``: layers that no configuration
    describes, since the user added them with pruning functions of their own. ``views``: views of cut dimensions, which
    must divide them in the same way afterwards. The configured part may lie inside a larger model. Names are then those
    of the larger model, and its other parts are not rebuilt.
    """

    def __init__(
        self, model: nn.Module, fixed: FixedFactors | None = None, apart: Iterable[str] = (), views: Sequence[View] = ()
    ) -> None:
        self.model = model
        self.part = configured_part(model) or ""
        self._prefix = f"{self.part}." if self.part else ""
        configured: Any = model.get_submodule(self.part)
        self.config = configured.config
        self.views = tuple(views)
        self.apart = tuple(f"{path}." for path in apart)
        self.fixed = fixed or FixedFactors()
        self.document = doc.document_of(self.config)
        self.base = self._shapes_of(model)
        self._confirmed: dict[tuple, nn.Module] = {}
        self._remembered = Remembered() if self.part else remembered(self._architecture())
        try:
            self.original = self._remembered.original or self._built_as_it_is()
        except Exception as error:
            raise PruningRefused(
                f"{type(self.config).__name__} cannot build the model again ({left_by(error)}); "
                "without that no pruned size can be written into it"
            ) from error
        shapes = self._shapes_of(self.original)
        wrong = [n for n in self.base.keys() | shapes.keys() if self.base.get(n) != shapes.get(n)]
        if wrong:
            raise PruningRefused(
                f"the model's weights do not agree with its own configuration ({min(wrong)}); load or build it afresh"
            )

    def _built_as_it_is(self) -> nn.Module:
        """The skeleton without changes, cached with the names that its build reads."""
        with recorded_reads(self.config) as names:
            self._remembered.original = self.build({})
        self._remembered.read = frozenset(names)
        return self._remembered.original

    def _architecture(self) -> Hashable:
        """Key of everything that the shapes of a skeleton depend on, except for changed entries."""
        private = (getattr(self.config, name, None) for name in doc.PRIVATE)
        document = json.dumps(self.document, sort_keys=True, default=repr)
        return (type(self.model), type(self.config), document, *private, tuple(self.base.items()), self.apart)

    def _shapes_of(self, model: nn.Module) -> Shapes:
        shapes = shapes_of(model).items()
        return {n: shape for n, shape in shapes if n.startswith(self._prefix) and not n.startswith(self.apart)}

    def build(self, entries: Mapping[EntryPath, int]) -> nn.Module:
        """The whole skeleton with changed entries. Raises what the architecture raises."""
        if (confirmed := self._confirmed.pop(_key(entries), None)) is not None:
            return confirmed
        return self.built_from(doc.config_from(self.config, with_entries(self.document, entries)))

    def built_from(self, config: Any) -> nn.Module:
        """The skeleton under a configuration, inside a weightless copy of the larger model if there is one."""
        built = skeleton(self.model.get_submodule(self.part), config)
        if not self.part:
            return built
        whole = copy.deepcopy(self._around)
        whole.set_submodule(self.part, built)
        return whole

    @cached_property
    def _around(self) -> nn.Module:
        whole = without_weights(self.model)
        whole.set_submodule(self.part, nn.Identity())
        return whole

    def try_entries(self, entries: Mapping[EntryPath, int]) -> Built | None:
        """Shapes and attributes under changed entries; ``None`` if the architecture refuses them or has other
        parameters then.
        """
        key = _key(entries)
        if key not in self._remembered.built:
            self._remembered.built[key] = self._built(entries)
        return self._remembered.built[key]

    def forwards_of(self, example: Example) -> dict[Hashable, Any]:
        """Cache of recorded forwards of the unchanged skeleton on an example; callers read it and add to it."""
        return self._remembered.forwards_of(example)

    def shapes(self, entries: Mapping[EntryPath, int]) -> Shapes | None:
        """Shapes under changed entries; ``None`` if the architecture does not accept the entries."""
        built = self.try_entries(entries)
        return None if built is None else built.shapes

    def refuses(self, entries: Mapping[EntryPath, int]) -> bool:
        """Whether the architecture raises for these entries (already tried)."""
        return _key(entries) in self._remembered.rules

    def rules_on(self, names: Iterable[str]) -> list[str]:
        """Error messages of the architecture, for entries it refused, that contain one of ``names`` as a word."""
        words = [re.compile(rf"\b{re.escape(name)}\b") for name in names]
        messages = dict.fromkeys(self._remembered.rules.values())
        return [rule for rule in messages if any(word.search(rule) for word in words)]

    @property
    def short(self) -> bool:
        """Whether trials build representative layers only, so that their results need a build in full."""
        return not self._remembered.in_full and self._short_builds.worthwhile

    @property
    def _short_builds(self) -> ShortBuilds:
        known = self._remembered
        if known.short_builds is None:
            known.short_builds = ShortBuilds(self.original, self.base, self._prefix)
        return known.short_builds

    def confirms(self, entries: Mapping[EntryPath, int], shapes: Shapes) -> bool:
        """Whether a build in full has these shapes. The next ``build`` of the same entries returns that skeleton."""
        try:
            built = self.build(entries)
        except Exception:
            return False
        if self._shapes_of(built) != shapes:
            return False
        self._confirmed = {_key(entries): built}
        return True

    def build_in_full(self) -> None:
        """Discard the results of short builds, and build all layers from now on."""
        self._remembered.in_full = True
        self._remembered.forget_builds()
        for name in ("pins", "values", "_all_moves", "moves", "silent_moves"):
            vars(self).pop(name, None)

    def _built(self, entries: Mapping[EntryPath, int]) -> Built | None:
        if not entries:
            return Built(self.base, {})
        by_layer = any(str(key).isdigit() for path in entries for key in path)
        if self.short and not by_layer:  # an entry of one layer has no representative
            try:
                short = self._short_builds.build(lambda: self.build(entries), self._shapes_of)
            except OtherTensors:
                return None
            if short is not None:
                return short
        try:
            model = self.build(entries)
        except Exception as error:  # a configuration that the architecture does not accept
            self._remembered.rules[_key(entries)] = " ".join(str(error).split())
            return None
        shapes = self._shapes_of(model)
        if shapes.keys() != self.base.keys():
            return None
        return Built(shapes, changed_attributes(self.original, model))

    @cached_property
    def pins(self) -> Entries:
        """Entries that set explicitly what the architecture otherwise derives, such as the size of a head."""
        if self._remembered.pins is None:
            self._remembered.pins = found_pins(self)
        return dict(self._remembered.pins)

    @property
    def names_read(self) -> frozenset[str]:
        """Names of all attributes that a build of the unchanged model asks of configurations."""
        return self._remembered.read

    @cached_property
    def values(self) -> Entries:
        """Present value of every integer entry, pins included."""
        return {**dict(doc.integers(self.document)), **self.pins}

    @cached_property
    def _all_moves(self) -> tuple[Move, ...]:
        if self._remembered.moves is None:
            self._remembered.moves = self._found_moves()
        return tuple(self._remembered.moves)

    def _found_moves(self) -> tuple[Move, ...]:
        moves, refused = [], []
        for path, value in self.values.items():
            doubled = {**self.pins, path: 2 * value}
            if (built := self.try_entries(doubled)) is None:
                refused += [path] if self.refuses(doubled) else []
            else:
                moves.append(self._move((path,), (), built))
        for path in refused:
            moves += self._pairs(path, [p for m in moves if m.slopes for p in m.up] + refused)
        return tuple(moves)

    @cached_property
    def moves(self) -> tuple[Move, ...]:
        """Moves: changes of entries that change shapes, the most far-reaching first."""
        return tuple(sorted((m for m in self._all_moves if m.slopes), key=lambda move: -len(move.slopes)))

    def changes_fixed_factor(self, move: Move) -> bool:
        """Whether a move changes the size of a factor that must stay, such as the head size."""
        return any(self.fixed.fixes(self.values[path], move.slopes, self.base) for path in move.up)

    def factors_disturbed(self, entries: Mapping[EntryPath, int]) -> dict[Attribute, int]:
        """Attributes that hold the size of a fixed factor and change under ``entries``, with the size to keep.

        Needed since a projection may keep its shape while its heads become more and smaller.
        """
        built = self.try_entries(entries)
        changed: dict[Attribute, int] = {}
        for (path, name), value in ({} if built is None else built.attributes).items():
            before = vars(self.original.get_submodule(path)).get(name)
            if type(before) is int and type(value) is int and before in self._fixed_in.get(path, ()):
                changed[path, name] = before
        return changed

    @cached_property
    def _fixed_in(self) -> dict[str, set[int]]:
        """Sizes of fixed factors by module: those of its own parameters and of its direct children's."""
        certain: dict[str, set[int]] = {}
        for name, dim in self.fixed.sizes:
            owner = name.rpartition(".")[0]
            for path in (owner, owner.rpartition(".")[0]):
                certain.setdefault(path, set()).update(self.fixed.certain((name, dim)))
        return certain

    @cached_property
    def silent_moves(self) -> tuple[Move, ...]:
        """Moves that change attributes of modules but no shape, such as the number of key heads in latent attention."""
        return tuple(m for m in self._all_moves if m.attributes and not m.slopes)

    def _pairs(self, path: EntryPath, others: Iterable[EntryPath]) -> list[Move]:
        """Moves that double an entry which the architecture refuses alone, and double or halve one other with it."""
        result = []
        for other in dict.fromkeys(others):
            if other == path:
                continue
            both = {**self.pins, path: 2 * self.values[path]}
            if built := self.try_entries({**both, other: 2 * self.values[other]}):
                result.append(self._move((path, other), (), built))
            if self.values[other] % 2 == 0 and (built := self.try_entries({**both, other: self.values[other] // 2})):
                result.append(self._move((path,), (other,), built))
        return [move for move in result if move.slopes]

    def _move(self, up: tuple[EntryPath, ...], down: tuple[EntryPath, ...], built: Built) -> Move:
        slopes = {
            (name, dim): new - old
            for name, shape in self.base.items()
            for dim, (old, new) in enumerate(zip(shape, built.shapes[name], strict=True))
            if new != old
        }
        return Move(up, down, slopes, built.attributes, built.has_constants)


def _key(entries: Mapping[EntryPath, int]) -> tuple:
    return tuple(sorted((str(path), value) for path, value in entries.items()))
