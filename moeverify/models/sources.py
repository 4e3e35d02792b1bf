"""Sources of models: synthetic, the zoo, a checkpoint folder, a hub name, or the user's factory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.base import forms
from moeverify.base.documents import read_document
from moeverify.base.foreign import foreign_code
from moeverify.base.imports import find_attribute
from moeverify.errors import SourceError, UsageError
from moeverify.models.casting import cast_source
from moeverify.models.checkpoints import Loading, load_checkpoint, token_inputs
from moeverify.models.checkpoints import quiet_transformers as quiet_transformers
from moeverify.models.device import check_device, input_device, move_inputs
from moeverify.models.images import with_images
from moeverify.models.wrappers import unwrapped
from moeverify.models.zoo import build_zoo, zoo_types

DEFAULT = ("synthetic", "zoo:qwen2_moe", "zoo:qwen3_moe", "zoo:mixtral")
FORMS = forms.SOURCES
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in evaluation mode with inputs that it accepts.

    ``tokenizer`` is the folder or hub name that its tokenizer is loaded from, if it has one; ``tasks`` are lm-eval
    tasks of its own.
    """

    name: str
    model: nn.Module
    example_inputs: Any
    notes: tuple[str, ...] = ()
    tokenizer: str | None = None
    tasks: tuple[str, ...] = ()


def parse_dtype(name: str) -> torch.dtype:
    """The torch type of a name. Raises ``UsageError`` for another one."""
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def expand_sources(names: Sequence[str] = ()) -> tuple[str, ...]:
    """One name for each model: ``synthetic`` and ``zoo:all`` stand for several, nothing for the default set.

    Raises ``SourceError`` for a name that is none.
    """
    result: list[str] = []
    for name in names or DEFAULT:
        if name == "synthetic":
            from synthetic_models import default_specs

            result += [f"synthetic:{key}" for key in default_specs()]
        elif name == "zoo:all":
            result += [f"zoo:{key}" for key in zoo_types()]
        else:
            source_kind(name)
            result.append(name)
    return tuple(dict.fromkeys(result))


def source_kind(name: str) -> tuple[str, str]:
    """Kind of a source, and its name within that kind; nothing is loaded.

    Kinds: ``synthetic``, ``zoo``, ``small``, ``folder``, ``factory``, ``hub``. Raises ``SourceError`` for any other
    name.
    """
    kind, _, rest = name.partition(":")
    if name == "small" or (kind in ("synthetic", "zoo") and rest):
        return kind, rest
    path = Path(name).expanduser()
    if name and path.exists():
        return "folder", str(path)
    if rest and os.sep not in kind:
        return "factory", name
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return "hub", name
    raise SourceError(f"no such source: {name!r}; use {FORMS}")


def tokenizer_of(name: str) -> str | None:
    """Location that the tokenizer of a source is loaded from; ``None`` for one without. Nothing is loaded.

    Raises ``SourceError`` for a name that is no source.
    """
    kind, rest = source_kind(name)
    if kind == "small":
        from synthetic_models.small import MODEL

        return str(MODEL)
    if kind == "folder":
        return rest if list(Path(rest).glob("tokenizer*")) else None
    return name if kind == "hub" else None


def load_source(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    device: str = "cpu",
    engine_ready: bool = False,
) -> LoadedModel:
    """Load the model that a source names, and place it and its inputs.

    ``engine_ready`` builds synthetic and zoo models in sizes that other engines take.

    ``device`` is ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: a checkpoint is then spread over all devices, main memory
    included, as accelerate sees fit.

    Raises ``SourceError`` with one line that says what is wrong with the source, ``UsageError`` for a device that is
    not there.
    """
    check_device(device)
    loaded = _load(name, seed, dtype, trust_remote_code, device, engine_ready)
    if device not in ("cpu", "auto"):
        loaded.model.to(device)
    return replace(loaded, example_inputs=move_inputs(loaded.example_inputs, input_device(loaded.model)))


def _load(
    name: str, seed: int, dtype: torch.dtype, trust_remote_code: bool, device: str, engine_ready: bool
) -> LoadedModel:
    kind, rest = source_kind(name)
    if kind == "synthetic":
        return _synthetic(name, rest, seed, dtype, engine_ready)
    if kind == "zoo":
        model = build_zoo(rest, seed=seed, dtype=dtype, engine_ready=engine_ready)
        return LoadedModel(name, model, token_inputs(model, seed))
    if kind == "small":
        from synthetic_models.small import MODEL

        return replace(_checkpoint(name, MODEL, seed, Loading(dtype, False, device)), tasks=("small",))
    loading = Loading(dtype, trust_remote_code, device)
    if kind == "folder":
        return _checkpoint(name, Path(rest), seed, loading)
    if kind == "factory":
        return _factory(name, dtype)
    return _pretrained(name, name, seed, loading)


def _synthetic(name: str, rest: str, seed: int, dtype: torch.dtype, engine_ready: bool) -> LoadedModel:
    import synthetic_models

    specs = synthetic_models.default_specs()
    if rest.endswith(".json"):
        data = read_document(rest, {"type": "object"}, kind="model specification", error=SourceError)
        try:
            spec = synthetic_models.Spec.from_dict(data)
        except (TypeError, ValueError) as error:
            raise SourceError(f"{rest} is not a model specification: {error}") from error
    elif rest in specs:
        spec = specs[rest]
    else:
        raise SourceError(f"no synthetic model {rest!r}; there are {', '.join(specs)}, or give a SPEC.json")
    spec = replace(spec, seed=spec.seed + seed)
    if engine_ready:
        widths = tuple(64 * max(1, width // 4) for width in spec.widths)
        spec = replace(spec, hidden=128, vocab=256, head_dim=64, widths=widths, shared_width=128, dense_width=128)
    model = synthetic_models.build(spec).to(dtype).eval()
    return LoadedModel(name, model, synthetic_models.example_inputs(spec))


def _checkpoint(name: str, path: Path, seed: int, loading: Loading) -> LoadedModel:
    if not path.is_dir():
        raise SourceError(f"{name} is a file, not a checkpoint folder; name the folder that it is in")
    # The folder as the user named it stays the name; links on the way to it are none of the folder's.
    loaded = _pretrained(name, str(path), seed, loading)
    return loaded if list(path.glob("tokenizer*")) else replace(loaded, tokenizer=None)


def _pretrained(name: str, where: str, seed: int, loading: Loading) -> LoadedModel:
    model, notes = load_checkpoint(name, where, loading)
    inputs = with_images(model, token_inputs(model, seed), seed)
    return LoadedModel(name, model, inputs, notes, tokenizer=where)


def _factory(name: str, dtype: torch.dtype) -> LoadedModel:
    factory = find_attribute(name)
    with foreign_code(f"{name} failed", SourceError, "; it must return (model, example_inputs)"):
        model, inputs = factory()
    if not isinstance(model, nn.Module):
        raise SourceError(f"{name} returned a {type(model).__name__} where a torch.nn.Module was expected")
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    model = unwrapped(model).eval()
    return LoadedModel(name, model, cast_source(name, model, inputs, dtype))
