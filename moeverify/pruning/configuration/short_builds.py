"""Skeletons of deep models, built with a few representative layers of each kind and empty modules for the others.

Under changed entries a layer has the shapes and attributes of its representatives. The whole model has to be built
where representatives of one kind differ from each other, or where layers are constructed in another order.

Example: a model of 48 alike layers is built with the layers 0, 1 and 47.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from moeverify.models.alike_layers import alike_layers, representatives
from moeverify.models.skeleton import Attribute, Shapes, changed_attributes, plain_attributes
from moeverify.pruning.configuration.built import Built
from moeverify.pruning.configuration.replaced import replaced


@dataclass(frozen=True)
class _Layer:
    """Path of a layer, and paths of the representatives of its kind."""

    path: str
    representatives: tuple[str, ...]

    @property
    def built(self) -> bool:
        """Whether it is one of the representatives."""
        return self.path in self.representatives

    def in_representative(self, name: str) -> str:
        """The same tensor or module in the first representative; the name itself if the layer is one."""
        return name if self.built else self.representatives[0] + name.removeprefix(self.path)


class OtherTensors(Exception):
    """A build that has parameters or buffers which the original lacks, such as those of more layers."""


class ShortBuilds:
    """Builds an architecture with representative layers only, and derives shapes and attributes of all others.

    ``original``: the skeleton with all layers. ``base``: shapes of the tensors to derive, by name. ``prefix``: path of
    the part that a configuration builds, such as ``language_model.``; empty for the whole model.
    """

    def __init__(self, original: nn.Module, base: Shapes, prefix: str = "") -> None:
        self._modules, self._attributes = dict(original.named_modules()), plain_attributes(original)
        self._layers = {layer.path: layer for layer in _layers(original) if layer.path.startswith(prefix)}
        self._by_type: dict[type, list[_Layer]] = defaultdict(list)
        for path, layer in self._layers.items():
            self._by_type[type(self._modules[path])].append(layer)
        self._owners = {name: self._layer_of(name) for name in (*base, *self._modules)}
        sources = {n: n if layer is None else layer.in_representative(n) for n, layer in self._owners.items()}
        # Tensors and modules by name, each with its counterpart in a layer that is built.
        self._tensors = {name: sources[name] for name in base}
        self._paths = {path: sources[path] for path in self._modules}
        tensors = original.named_parameters, original.named_buffers
        self._everything = {name for named in tensors for name, _ in named(remove_duplicate=False)}
        self._names = {name for name in base if sources[name] == name}

    @property
    def worthwhile(self) -> bool:
        """Whether at least half of the layers need not be built."""
        return 0 < 2 * sum(layer.built for layer in self._layers.values()) <= len(self._layers)

    def build(self, make: Callable[[], nn.Module], shapes_of: Callable[[nn.Module], Shapes]) -> Built | None:
        """Shapes and attributes of the model that ``make`` builds; ``None`` if the representatives do not show them.

        ``None`` as well if ``make`` raises, or if the parameters have other names. Raises ``OtherTensors`` where a
        build of all layers would have other parameters too.
        """
        try:
            with _empty(self._by_type) as made, _one_generation_config():
                model = make()
        except Exception:  # the whole build says why
            return None
        shapes = shapes_of(model)
        if not shapes.keys() <= self._everything:
            raise OtherTensors
        if not self._in_place(model, made):
            return None
        attributes = changed_attributes(self._attributes, model)
        if shapes.keys() != self._names or not self._agree(shapes, attributes):
            return None
        return Built({name: shapes[source] for name, source in self._tensors.items()}, self._in_all(attributes))

    def _layer_of(self, name: str) -> _Layer | None:
        """The layer that a parameter, buffer or module lies in."""
        parts = name.split(".")
        paths = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        return next((self._layers[path] for path in paths if path in self._layers), None)

    def _in_place(self, model: nn.Module, made: Mapping[type, Sequence[nn.Module]]) -> bool:
        """Whether exactly the original's layers were constructed, in its order. ``made``: new modules by type."""
        modules = dict(model.named_modules())
        return all(
            [modules.get(layer.path) for layer in layers] == made[kind] for kind, layers in self._by_type.items()
        )

    def _agree(self, shapes: Shapes, attributes: Mapping[Attribute, Any]) -> bool:
        """Whether the representatives of each kind are still alike."""
        content: dict[str, dict[Any, Any]] = defaultdict(dict)
        for name, shape in shapes.items():
            if (layer := self._owners[name]) is not None:
                content[layer.path][name.removeprefix(layer.path)] = shape
        for (path, name), value in attributes.items():
            if (layer := self._owners[path]) is not None:
                content[layer.path][path.removeprefix(layer.path), name] = value
        kinds = {layer.representatives for layer in self._layers.values()}
        return all(content[path] == content[paths[0]] for paths in kinds for path in paths)

    def _in_all(self, attributes: Mapping[Attribute, Any]) -> dict[Attribute, Any]:
        """Changed attributes of all modules; those of a layer are copied from its representative."""
        by_module: dict[str, dict[str, Any]] = defaultdict(dict)
        for (path, name), value in attributes.items():
            by_module[path][name] = value
        return {(path, n): v for path, source in self._paths.items() for n, v in by_module.get(source, {}).items()}


def _layers(model: nn.Module) -> Iterator[_Layer]:
    """Layers of all lists that are long enough to shorten, in the order of each list."""
    for path, groups in alike_layers([model]).items():
        built = {n: tuple(f"{path}.{s}" for s in representatives(group)) for group in groups for n in group}
        for number in sorted(built):
            yield _Layer(f"{path}.{number}", built[number])


@contextlib.contextmanager
def _one_generation_config() -> Iterator[None]:
    """A context in which transformers models get an empty generation configuration, which has no sizes."""
    try:
        from transformers import GenerationConfig
    except ImportError:
        yield
        return
    empty = GenerationConfig()
    with replaced(GenerationConfig, "from_model_config", staticmethod(lambda *_, **__: empty)):
        yield


@contextlib.contextmanager
def _empty(layers: Mapping[type, Sequence[_Layer]]) -> Iterator[dict[type, list[nn.Module]]]:
    """A context in which the n-th new module of a type is empty unless the n-th of ``layers`` is a representative.

    The first module behind the last of ``layers`` is built too: its parameters show that there are more layers.

    Yields the new modules by type, in the order of construction.
    """
    made: dict[type, list[nn.Module]] = {kind: [] for kind in layers}
    with contextlib.ExitStack() as stack:
        for kind in layers:
            stack.enter_context(_intercepted(kind, [layer.built for layer in layers[kind]], made[kind]))
        yield made


@contextlib.contextmanager
def _intercepted(kind: type, built: Sequence[bool], made: list[nn.Module]) -> Iterator[None]:
    """A context that records new modules of exactly this type; the n-th is empty unless ``built[n]``. One more than
    ``built`` is built, any further ones are empty.
    """
    original = kind.__init__  # type: ignore[misc]

    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        if type(self) is not kind:
            original(self, *args, **kwargs)
            return
        number = len(made)
        made.append(self)
        if number == len(built) or (number < len(built) and built[number]):
            original(self, *args, **kwargs)
        else:
            nn.Module.__init__(self)

    with replaced(kind, "__init__", init):
        yield
