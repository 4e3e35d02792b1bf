"""The truth by configuration: which parameter dimensions follow an entry.

A model is built twice on the meta device with one size changed, and shapes are compared. Nothing here uses traces,
rules or couplings, so it can judge them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Dim = tuple[str, int]
# Hidden sizes that may only change together with other entries, by model type.
HIDDEN_TOGETHER: Mapping[str, Mapping[str, int]] = {"granitemoehybrid": {"hidden_size": 80, "mamba_d_head": 20}}
# Parameters whose dimensions follow the hidden size because the configuration has no entry of their own for them,
# though no channel is coupled: a pattern, and the reason.
TIED_BY_CONFIGURATION: Mapping[str, tuple[str, str]] = {
    "dbrx": (r"attn\.(Wqkv|out_proj)\.weight$", "the size of a head is hidden size / heads"),
    "granitemoehybrid": (r"\.mamba\.", "Mamba's inner size is a multiple of the hidden size"),
    "jamba": (r"\.mamba\.", "Mamba's inner size is a multiple of the hidden size"),
    "lfm2_moe": (r"\.conv\.", "the convolution has as many channels as the hidden size"),
    "olmoe": (r"\.(q|k)_norm\.weight$", "the norm of all heads together has the hidden size"),
}
# Changes tried in turn: architectures ask sizes to be divisible by heads, groups or streams.
STEPS = (lambda n: n + 16, lambda n: n * 2, lambda n: n + 4, lambda n: n + 2, lambda n: n + 1)


@dataclass(frozen=True)
class Followers:
    """The parameter dimensions that change with one entry of the configuration (a dotted path), tried at ``value``."""

    entry: str
    dims: frozenset[Dim]
    value: int


def dims_that_follow(model: nn.Module, entries: Mapping[str, int]) -> frozenset[Dim] | None:
    """The parameter dimensions whose size differs when entries (dotted paths) take other values, together.

    Tied parameters count once, under their first name. The size of a head stays, where the configuration can
    express that. ``None`` if such a model cannot be built.
    """
    return _changed(model, _document(model), _paths(entries))


def hidden_entries(model: nn.Module) -> dict[str, int]:
    """The entries, with other values, that change the hidden size: found by what the input embedding follows."""
    pretrained: Any = model
    together = HIDDEN_TOGETHER.get(pretrained.config.model_type)
    if together:
        return dict(together)
    table = pretrained.get_input_embeddings().weight
    root = next(name for name, parameter in model.named_parameters() if parameter is table), 1
    return next({f.entry: f.value} for f in followers(model) if root in f.dims and "vocab" not in f.entry)


def followers(model: nn.Module) -> tuple[Followers, ...]:
    """For every whole-number entry of a model's configuration, the dimensions that follow it; silent ones left out.

    See ``dims_that_follow``.
    """
    document = _document(model)
    result = []
    for path, value in _integers(document):
        for step in STEPS:
            changed = _changed(model, document, {path: step(value)})
            if changed:
                result.append(Followers(".".join(path), changed, step(value)))
            if changed is not None:
                break
    return tuple(result)


def sizes_that_follow(model: nn.Module, entries: Mapping[str, int]) -> dict[tuple[str, str], tuple[int, int]]:
    """Whole-number attributes ``(module path, name)`` that differ when entries take other values, old and new.

    Those are the sizes that a model's code may have taken from its configuration instead of from its tensors.
    """
    document = _document(model)
    one, other = (_build(type(model.config), _with(document, changes)) for changes in ({}, _paths(entries)))
    theirs = dict(other.named_modules())
    result = {}
    for path, module in one.named_modules():
        for name, old in vars(module).items():
            new = vars(theirs[path]).get(name) if path in theirs else None
            if type(old) is type(new) is int and old != new:
                result[path, name] = (old, new)
    return result


def _paths(entries: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {tuple(path.split(".")): value for path, value in entries.items()}


def _document(model: nn.Module) -> dict[str, Any]:
    """The configuration as plain data, with the size of a head written out if that changes nothing."""
    config: Any = model.config
    plain = copy.deepcopy(config.to_dict())
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
    try:
        after = _build(type(model.config), _with(document, entries))
    except Exception:  # an architecture's own refusal of these values, of any kind
        return None
    shapes = {name: parameter.shape for name, parameter in after.named_parameters(remove_duplicate=False)}
    before = {name: parameter.shape for name, parameter in model.named_parameters()}
    if any(len(shapes.get(name, ())) != len(shape) for name, shape in before.items()):
        return frozenset()  # other parameters: a count of layers or experts, or a switch
    return frozenset((n, d) for n, s in before.items() for d in range(len(s)) if s[d] != shapes[n][d])


def _with(document: dict[str, Any], entries: Mapping[tuple[str, ...], int]) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    for path, value in entries.items():
        target = changed
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = value
    return changed


def _build(config_class: Any, document: dict[str, Any]) -> nn.Module:
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        return AutoModelForCausalLM.from_config(config_class.from_dict(document))
