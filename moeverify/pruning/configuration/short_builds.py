"""Skeletons of deep models, built with a few layers of each kind and none of the others.

While the architecture builds itself, layers that others stand for become empty modules. What the standing layers are
under changed entries, all layers of their kind are. Nothing is concluded where standing layers of one kind differ from
each other, or where the layers are made in another order: then the whole model has to be built.

Example: a model of 48 alike layers is built with the layers 0, 1 and 47.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from moeverify.models.alike_layers import alike_layers, standing_for
from moeverify.models.skeleton import Attribute, Shapes, changed_attributes
from moeverify.pruning.configuration.built import Built


@dataclass(frozen=True)
class _Layer:
    """Path of a layer, and paths of the layers that stand for all of its kind."""

    path: str
    standing: tuple[str, ...]

    @property
    def built(self) -> bool:
        """Whether it is one of the standing layers."""
        return self.path in self.standing

    def in_standing(self, name: str) -> str:
        """The name of something in this layer as the first standing layer has it."""
        return name if self.built else self.standing[0] + name.removeprefix(self.path)


class ShortBuilds:
    """Builds of one architecture in which few layers stand for all others.

    ``original``: the whole skeleton. ``base``: the shapes in it that count, by name. ``prefix``: where that lies which
    is built from a configuration.
    """

    def __init__(self, original: nn.Module, base: Shapes, prefix: str = "") -> None:
        self._original, self._modules = original, dict(original.named_modules())
        self._layers = {layer.path: layer for layer in _layers(original) if layer.path.startswith(prefix)}
        self._by_type: dict[type, list[_Layer]] = defaultdict(list)
        for path, layer in self._layers.items():
            self._by_type[type(self._modules[path])].append(layer)
        self._owners = {name: self._layer_of(name) for name in (*base, *self._modules)}
        sources = {n: n if layer is None else layer.in_standing(n) for n, layer in self._owners.items()}
        # Where each name is read that may lie in a layer that is not built.
        self._tensors = {name: sources[name] for name in base}
        self._paths = {path: sources[path] for path in self._modules}
        self._names = {name for name in base if sources[name] == name}

    @property
    def worthwhile(self) -> bool:
        """Whether at least half of the layers need not be built."""
        return 0 < 2 * sum(layer.built for layer in self._layers.values()) <= len(self._layers)

    def build(self, make: Callable[[], nn.Module], shapes_of: Callable[[nn.Module], Shapes]) -> Built | None:
        """What ``make`` builds in full; ``None`` if the standing layers do not tell.

        ``None`` as well where ``make`` raises, or the parameters have other names.
        """
        try:
            with _empty(self._by_type) as made:
                model = make()
        except Exception:  # the whole build says why
            return None
        if not self._in_place(model, made):
            return None
        shapes, attributes = shapes_of(model), changed_attributes(self._original, model)
        if shapes.keys() != self._names or not self._agree(shapes, attributes):
            return None
        return Built({name: shapes[source] for name, source in self._tensors.items()}, self._in_all(attributes))

    def _layer_of(self, name: str) -> _Layer | None:
        """The layer that a parameter, buffer or module lies in."""
        parts = name.split(".")
        paths = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        return next((self._layers[path] for path in paths if path in self._layers), None)

    def _in_place(self, model: nn.Module, made: Mapping[type, Sequence[nn.Module]]) -> bool:
        """Whether the layers were made in the order of the original's layers, and no others."""
        modules = dict(model.named_modules())
        return all(
            [modules.get(layer.path) for layer in layers] == made[kind] for kind, layers in self._by_type.items()
        )

    def _agree(self, shapes: Shapes, attributes: Mapping[Attribute, Any]) -> bool:
        """Whether the standing layers of each kind are still alike."""
        content: dict[str, dict[Any, Any]] = defaultdict(dict)
        for name, shape in shapes.items():
            if (layer := self._owners[name]) is not None:
                content[layer.path][name.removeprefix(layer.path)] = shape
        for (path, name), value in attributes.items():
            if (layer := self._owners[path]) is not None:
                content[layer.path][path.removeprefix(layer.path), name] = value
        standing = {layer.standing for layer in self._layers.values()}
        return all(content[path] == content[paths[0]] for paths in standing for path in paths)

    def _in_all(self, attributes: Mapping[Attribute, Any]) -> dict[Attribute, Any]:
        """The changed attributes of all layers, module by module."""
        by_module: dict[str, dict[str, Any]] = defaultdict(dict)
        for (path, name), value in attributes.items():
            by_module[path][name] = value
        return {(path, n): v for path, source in self._paths.items() for n, v in by_module.get(source, {}).items()}


def _layers(model: nn.Module) -> Iterator[_Layer]:
    """The layers of all long lists, in the order of each list."""
    for path, groups in alike_layers([model]).items():
        standing = {n: tuple(f"{path}.{s}" for s in standing_for(group)) for group in groups for n in group}
        for number in sorted(standing):
            yield _Layer(f"{path}.{number}", standing[number])


@contextlib.contextmanager
def _empty(layers: Mapping[type, Sequence[_Layer]]) -> Iterator[dict[type, list[nn.Module]]]:
    """A context in which the n-th module of a type is empty unless the n-th of ``layers`` stands for others.

    Yields the modules that are made, by type and in order.
    """
    made: dict[type, list[nn.Module]] = {kind: [] for kind in layers}
    with contextlib.ExitStack() as stack:
        for kind in layers:
            stack.enter_context(_intercepted(kind, [layer.built for layer in layers[kind]], made[kind]))
        yield made


@contextlib.contextmanager
def _intercepted(kind: type, built: Sequence[bool], made: list[nn.Module]) -> Iterator[None]:
    """A context in which each new module of exactly this type is noted, and is empty unless it is to be built."""
    own, original = "__init__" in vars(kind), kind.__init__  # type: ignore[misc]

    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        if type(self) is not kind:
            original(self, *args, **kwargs)
            return
        made.append(self)
        if len(made) > len(built) or built[len(made) - 1]:
            original(self, *args, **kwargs)
        else:
            nn.Module.__init__(self)

    kind.__init__ = init  # type: ignore[misc]
    try:
        yield
    finally:
        if own:
            kind.__init__ = original  # type: ignore[misc]
        else:
            del kind.__init__  # type: ignore[misc]
