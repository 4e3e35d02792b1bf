"""Numbers inside a ``forward`` that follow from a size, such as ``x * config.hidden_size**0.5``.

No attribute shows them. They are found by comparing two recorded forwards; weights take them over, or the classes that
they depend on are left alone.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakSet

import torch
from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.errors import PruningRefused, TraceError
from moeverify.models.alike_layers import representative_layers, shortened
from moeverify.models.forward import Example
from moeverify.models.moe_layer import ancestors
from moeverify.models.roles import FoundRoles
from moeverify.models.skeleton import shapes_of
from moeverify.pruning.configuration.express import dims_of
from moeverify.pruning.configuration.probe import Entries, Move, Probe
from moeverify.pruning.configuration.update import ConfigUpdate
from moeverify.pruning.constants.absorb import absorb_all
from moeverify.pruning.constants.numbers import Forward, Number, changed_numbers
from moeverify.pruning.constants.recorder import ForwardFailed, record_forward, record_on_meta
from moeverify.pruning.constants.views import View, changed_views
from moeverify.pruning.plan.folds import Fold
from moeverify.pruning.plan.plan import Reason


@dataclass(frozen=True)
class Derived:
    """Outcome for the numbers that a new configuration changes.

    ``folds``: factors that weights take over. ``obstacles``: numbers that no weight can take over. ``views``: views
    that now divide a dimension differently.
    """

    folds: tuple[Fold, ...] = ()
    obstacles: tuple[Number, ...] = ()
    views: tuple[View, ...] = ()

    @property
    def reason(self) -> Reason:
        """Reason for leaving classes alone: the first of ``obstacles``, or else of ``views``."""
        if not self.obstacles:
            return self.views[0].reason
        number = self.obstacles[0]
        return Reason(f"{number.name} is derived from it, and no weight can take over the difference", number.line)

    def divided(self, classes: Iterable[PruningClass]) -> dict[PruningClass, Reason]:
        """Classes whose dimension a view now divides differently, each with the reason."""
        result = {}
        for pruning_class in classes:
            dims = dims_of(pruning_class)
            if view := next((v for v in self.views if not v.places.isdisjoint(dims)), None):
                result[pruning_class] = view.reason
        return result


class DoesNotRun(PruningRefused):
    """A forward that fails with the sizes that were asked for, and where."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class DerivedNumbers:
    """Comparison of a model's forward with that of the model that another configuration builds."""

    def __init__(self, probe: Probe, example: Example, roles: FoundRoles) -> None:
        self.probe = probe
        self.example = example
        self.roles = roles
        self._converted = WeakSet[nn.Module]()

    @cached_property
    def before(self) -> Forward | None:
        """The forward of the unpruned model; ``None``, with a warning, if it does not run without weights."""
        try:
            return self._recorded_before({})
        except TraceError as error:
            warnings.warn(f"constants that the forward derives from sizes were not searched for: {error}", stacklevel=2)
            return None

    def _recorded_before(self, kept: Mapping[str, Sequence[int]], *, meta: bool = False) -> Forward:
        """Recorded forward of the unpruned skeleton, cached.

        ``kept``: the layers that the skeleton is shortened to; if empty, it has all layers. ``meta``: recorded on the
        meta device, and not on fake tensors.
        """
        known, key = self.probe.forwards_of(self.example), (meta, self._key(kept))
        if key not in known:
            known[key] = self._record(self.probe.original, meta=meta)
        return known[key]

    def _record(self, skeleton: nn.Module, *, meta: bool) -> Forward:
        record = record_on_meta if meta else record_forward
        return record(self._in_precision(skeleton), self.example)

    def _key(self, kept: Mapping[str, Sequence[int]]) -> Hashable:
        """Cache key of a forward: layers, dtypes and code; the cache itself is per architecture and form of example."""
        types = tuple(self._dtypes.values())
        code = tuple(dict.fromkeys(type(module).forward for module in self.probe.original.modules()))
        return tuple((path, tuple(numbers)) for path, numbers in kept.items()), types, code

    def keep(self, update: ConfigUpdate) -> Derived:
        """Folds and obstacles for the constants that ``update`` changes in the forward; changes nothing itself.

        Constants that a module attribute shows are handled elsewhere. Raises ``PruningRefused`` if the new model does
        not run.
        """
        if self._nothing_changes(update) or self.before is None:
            return Derived()
        return self._compared(self.before, self._after(update))

    def _nothing_changes(self, update: ConfigUpdate) -> bool:
        """Whether cheaper forwards show that no number changes: of a few layers of each kind, on the meta device.

        ``False`` if they show a changed number or fail: the whole forward says what is wrong. If only the forward on
        the meta device fails, one on fake tensors decides. What was shown is cached by architecture and new entries.
        """
        # As a whole, so that layers are not told apart by their precision.
        before, after = map(self._in_precision, (self.probe.original, update.after))
        apart = {layer.container for layer in self.roles.layers}
        kept = representative_layers(before, after, apart)
        known = self.probe.forwards_of(self.example)
        sizes = (tuple(sorted(update.entries.items(), key=str)), tuple(shapes_of(after).items()))
        key = (self._key(kept), sizes, frozenset(apart), self.probe.views)
        if key in known:
            return True
        with shortened(before, kept), shortened(after, kept):
            for meta in (True, False) if kept else (True,):
                try:
                    outcome = self._compared(self._recorded_before(kept, meta=meta), self._after(update, meta=meta))
                except (TraceError, PruningRefused):
                    continue
                if outcome == Derived():
                    known[key] = outcome
                break
        return key in known

    def _compared(self, before: Forward, after: Forward) -> Derived:
        return compare(before, after, self.probe.views, self.probe.model, self.roles)

    def _in_precision(self, skeleton: nn.Module) -> nn.Module:
        """The skeleton in the model's dtypes, since a constant is rounded to the dtype of the tensor it multiplies."""
        if skeleton in self._converted:
            return skeleton
        self._converted.add(skeleton)
        for name, tensor in (*skeleton.named_parameters(), *skeleton.named_buffers()):
            if tensor.dtype != self._dtypes.get(name, tensor.dtype):
                tensor.data = tensor.data.to(self._dtypes[name])
        return skeleton

    @cached_property
    def _dtypes(self) -> dict[str, torch.dtype]:
        model = self.probe.model
        return {name: tensor.dtype for name, tensor in (*model.named_parameters(), *model.named_buffers())}

    def deciding(self, obstacles: Sequence[Number], entries: Entries) -> list[Move]:
        """The moves among changed ``entries`` that by themselves change one of the numbers in ``obstacles``."""
        if not obstacles or self.before is None:
            return []
        places = {(n.module, n.operation, n.step) for n in obstacles}
        result = []
        for move in self.probe.moves:
            alone = {
                p: entries[p]
                for p in (*move.up, *move.down)
                if entries.get(p, self.probe.values[p]) != self.probe.values[p]
            }
            if not alone or self.probe.shapes({**self.probe.pins, **alone}) is None:
                continue
            update = ConfigUpdate(alone, self.probe.original, self.probe.build({**self.probe.pins, **alone}))
            with contextlib.suppress(PruningRefused):
                changed = changed_numbers(self.before, self._after(update))
                if not places.isdisjoint((n.module, n.operation, n.step) for n in changed):
                    result.append(move)
        return result

    def _after(self, update: ConfigUpdate, *, meta: bool = False) -> Forward:
        with _attributes_as_before(update):
            try:
                return self._record(update.after, meta=meta)
            except ForwardFailed as error:
                raise DoesNotRun(error.where) from error


@contextlib.contextmanager
def _attributes_as_before(update: ConfigUpdate) -> Iterator[None]:
    """A context in which constants that attributes show keep their old values; ``constants.py`` handles those."""
    modules = dict(update.after.named_modules())
    changes = update.constants()
    for (path, name), (old, _) in changes.items():
        setattr(modules[path], name, old)
    try:
        yield
    finally:
        for (path, name), (_, new) in changes.items():
            setattr(modules[path], name, new)


def compare(before: Forward, after: Forward, views: Sequence[View], model: nn.Module, roles: FoundRoles) -> Derived:
    """Outcome for the numbers and ``views`` of one forward, compared with another."""
    folds, obstacles = absorb_all(before, changed_numbers(before, after))
    changed = changed_views(views, before, after)
    return Derived(for_all_experts(folds, before, model, roles), tuple(obstacles), tuple(changed))


def for_all_experts(folds: Sequence[Fold], forward: Forward, model: nn.Module, roles: FoundRoles) -> tuple[Fold, ...]:
    """The folds, repeated for experts of lists that the forward did not reach."""
    names: Mapping[str, nn.Parameter] = dict(model.named_parameters())
    read = {name for value, name in forward.parameters.items() if forward.readers.get(value)}
    added: dict[str, Fold] = {}
    for fold in folds:
        holder = roles.boundary(fold.parameter)
        layer = None if holder is None else roles.layer_of(holder)
        if layer is None or (number := layer.owner(fold.parameter)) is None:
            continue
        path = next(p for p in ancestors(fold.parameter) if p in layer.parts[number])
        for siblings in layer.parts:
            name = siblings[layer.parts[number].index(path)] + fold.parameter.removeprefix(path)
            if name in names and name not in read:
                added[name] = Fold(name, fold.factor, fold.offset)
    return (*folds, *added.values())
