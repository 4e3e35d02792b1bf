"""The truth by configuration: which parameter dimensions follow an entry.

A model is built twice on the meta device with one size changed, and shapes are compared. Nothing here knows of
traces, rules or couplings, so it can judge them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Dim = tuple[str, int]
# Changes tried in turn: architectures ask sizes to be divisible by heads, groups or streams.
STEPS = (lambda n: n + 16, lambda n: n * 2, lambda n: n + 4, lambda n: n + 2, lambda n: n + 1)


@dataclass(frozen=True)
class Followers:
    """The parameter dimensions that change with one entry of the configuration (a dotted path)."""

    entry: str
    dims: frozenset[Dim]


def dims_that_follow(model: nn.Module, entries: Mapping[str, int]) -> frozenset[Dim] | None:
    """The parameter dimensions whose size differs when entries (dotted paths) take other values, together.

    Tied parameters count once, under their first name. The size of a head stays, where the configuration can say
    it. ``None`` if such a model cannot be built.
    """
    return _changed(model, _document(model), {tuple(path.split(".")): value for path, value in entries.items()})


def followers(model: nn.Module) -> tuple[Followers, ...]:
    """For every whole-number entry of a model's configuration, the dimensions that follow it; silent ones left out.

    See ``dims_that_follow``.
    """
    document = _document(model)
    found = []
    for path, value in _integers(document):
        for step in STEPS:
            changed = _changed(model, document, {path: step(value)})
            if changed:
                found.append(Followers(".".join(path), changed))
            if changed is not None:
                break
    return tuple(found)


def _document(model: nn.Module) -> dict[str, Any]:
    """The configuration as plain data, with the size of a head written out if that changes nothing."""
    plain = copy.deepcopy(model.config.to_dict())
    held = copy.deepcopy(plain)
    text = held.get("text_config", held)
    heads, width = text.get("num_attention_heads"), text.get("hidden_size")
    if text.get("head_dim") is None and isinstance(heads, int) and isinstance(width, int):
        text["head_dim"] = width // heads
    return plain if _changed(model, held, {}) else held


def _integers(document: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    for name, value in document.items():
        if isinstance(value, dict) and all(isinstance(key, str) for key in value) and "rope" not in name:
            yield from _integers(value, (*path, name))
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0 and not name.endswith("token_id"):
            yield (*path, name), value


def _changed(
    model: nn.Module, document: dict[str, Any], entries: Mapping[tuple[str, ...], int]
) -> frozenset[Dim] | None:
    """Dimensions that differ under another configuration; ``None`` if that cannot be built."""
    changed = copy.deepcopy(document)
    for path, value in entries.items():
        target = changed
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = value
    try:
        after = _shapes(type(model.config).from_dict(changed))
    except Exception:  # an architecture's own refusal of these values, of any kind
        return None
    before = {name: parameter.shape for name, parameter in model.named_parameters()}
    if any(len(after.get(name, ())) != len(shape) for name, shape in before.items()):
        return frozenset()  # other parameters: a count of layers or experts, or a switch
    return frozenset((n, d) for n, s in before.items() for d in range(len(s)) if s[d] != after[n][d])


def _shapes(config: Any) -> dict[str, torch.Size]:
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    return {name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False)}
