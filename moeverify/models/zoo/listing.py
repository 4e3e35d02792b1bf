"""Listing of the zoo: one line a type, from the shrunken models themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from moeverify.errors import SourceError
from moeverify.models.roles import MoELayer, find_roles
from moeverify.models.zoo.build import build_zoo
from moeverify.models.zoo.registry import is_zoo_type, zoo_types


@dataclass(frozen=True)
class ZooEntry:
    """One model type: its experts, routers, shared experts, layers; or ``error``, one line why it cannot be built.

    ``layout``: that of the routed experts (see ``MoELayer``). ``mixers``: kinds of layers that mix positions, in order.
    ``routers``, ``shared_experts``: name and class of each.
    """

    model_type: str
    layers: int = 0
    moe_layers: int = 0
    experts: int = 0
    layout: str = ""
    routers: tuple[str, ...] = ()
    shared_experts: tuple[str, ...] = ()
    mixers: tuple[str, ...] = ()
    parameters: int = 0
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return dataclasses.asdict(self)


def describe(model_type: str) -> ZooEntry:
    """Build the small model of a type and describe its parts. An unusable type has ``error`` set; none is dropped."""
    try:
        model = build_zoo(model_type)
    except SourceError as error:
        return ZooEntry(model_type, error=str(error))
    layers = find_roles(model).layers
    whole: Any = model.config
    config = whole.get_text_config()
    return ZooEntry(
        model_type,
        layers=config.num_hidden_layers,
        moe_layers=len(layers),
        experts=max(len(layer.experts) for layer in layers),
        layout="/".join(dict.fromkeys(layer.layout for layer in layers)),
        routers=_kinds(model, layers, "routers"),
        shared_experts=_kinds(model, layers, "shared_experts"),
        mixers=tuple(dict.fromkeys(getattr(config, "layer_types", None) or ())),
        parameters=sum(p.numel() for p in model.parameters()),
    )


def _kinds(model: nn.Module, layers: Iterable[MoELayer], role: str) -> tuple[str, ...]:
    paths = [path for layer in layers for path in getattr(layer, role)]
    return tuple(dict.fromkeys(f"{p.rpartition('.')[2]} ({type(model.get_submodule(p)).__name__})" for p in paths))


def zoo_listing(model_types: Iterable[str] = ()) -> Iterator[ZooEntry]:
    """An entry for each of ``model_types``, all by default. Raises ``SourceError`` for a name not in the zoo."""
    wanted = tuple(model_types)
    for model_type in wanted:
        if not is_zoo_type(model_type):
            raise SourceError(f"the zoo has no {model_type!r}; `moeverify zoo` lists what it has")
    for model_type in wanted or zoo_types():
        yield describe(model_type)
