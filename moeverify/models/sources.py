"""Where a model comes from: synthetic, the zoo, a checkpoint folder, a hub name, or the user's factory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.base import forms
from moeverify.base.foreign import foreign_code
from moeverify.base.imports import find_attribute
from moeverify.errors import SourceError, UsageError
from moeverify.models.casting import cast_source
from moeverify.models.device import check_device, input_device, move_inputs
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
    """What a source is (``synthetic``, ``zoo``, ``small``, ``folder``, ``factory`` or ``hub``), and what is
    named of that kind.

    Raises ``SourceError`` for a name that is none of them; nothing is loaded.
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


def load_source(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    device: str = "cpu",
) -> LoadedModel:
    """Load the model that a source names, and place it and its inputs.

    ``device`` is ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: a checkpoint is then spread over all devices, main memory
    included, as accelerate sees fit.

    Raises ``SourceError`` with one line that says what is wrong with the source, ``UsageError`` for a device that is
    not there.
    """
    check_device(device)
    loaded = _load(name, seed, dtype, trust_remote_code, device)
    if device not in ("cpu", "auto"):
        loaded.model.to(device)
    return replace(loaded, example_inputs=move_inputs(loaded.example_inputs, input_device(loaded.model)))


def _load(name: str, seed: int, dtype: torch.dtype, trust_remote_code: bool, device: str) -> LoadedModel:
    kind, rest = source_kind(name)
    if kind == "synthetic":
        return _synthetic(name, rest, seed, dtype)
    if kind == "zoo":
        model = build_zoo(rest, seed=seed, dtype=dtype)
        return LoadedModel(name, model, _token_inputs(model, seed))
    if kind == "small":
        from synthetic_models.small import MODEL

        return replace(_checkpoint(name, MODEL, seed, dtype, False, device), tasks=("small",))
    if kind == "folder":
        return _checkpoint(name, Path(rest), seed, dtype, trust_remote_code, device)
    if kind == "factory":
        return _factory(name, dtype)
    return _pretrained(name, name, "", seed, dtype, trust_remote_code, device)


def _token_inputs(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    size = embedding.num_embeddings if embedding is not None else 2
    return {"input_ids": torch.randint(0, size, (2, 32), generator=generator)}


def _synthetic(name: str, rest: str, seed: int, dtype: torch.dtype) -> LoadedModel:
    import synthetic_models

    specs = synthetic_models.default_specs()
    if rest.endswith(".json"):
        try:
            spec = synthetic_models.Spec.from_json(Path(rest).read_text("utf-8"))
        except OSError as error:
            raise SourceError(f"cannot read {rest}: {error.strerror}") from error
        except ValueError as error:
            raise SourceError(f"{rest} is not a model specification: {error}") from error
    elif rest in specs:
        spec = specs[rest]
    else:
        raise SourceError(f"no synthetic model {rest!r}; there are {', '.join(specs)}, or give a SPEC.json")
    spec = replace(spec, seed=spec.seed + seed)
    model = synthetic_models.build(spec).to(dtype).eval()
    return LoadedModel(name, model, synthetic_models.example_inputs(spec))


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' remarks and progress bars off standard error."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _checkpoint(
    name: str, path: Path, seed: int, dtype: torch.dtype, trust_remote_code: bool, device: str
) -> LoadedModel:
    config = path / "config.json"
    if not path.is_dir() or not config.is_file():
        raise SourceError(f"{name} is not a checkpoint folder: it has no config.json (save_pretrained writes one)")
    try:
        model_type = json.loads(config.read_text("utf-8")).get("model_type")
    except ValueError as error:
        raise SourceError(f"{config} is not valid JSON: {error}") from error
    if not model_type:
        raise SourceError(f"{config} has no model_type; take the config.json that save_pretrained wrote")
    loaded = _pretrained(name, str(path), model_type, seed, dtype, trust_remote_code, device)
    return loaded if list(path.glob("tokenizer*")) else replace(loaded, tokenizer=None)


def _pretrained(
    name: str, where: str, model_type: str, seed: int, dtype: torch.dtype, trust_remote_code: bool, device: str
) -> LoadedModel:
    from transformers import AutoModelForCausalLM

    if model_type == "synthetic_moe":
        import synthetic_models  # noqa: F401  registers the type
    try:
        with quiet_transformers():
            model, info = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=dtype,
                attn_implementation="eager",
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **({} if device == "cpu" else {"device_map": device}),
            )
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise SourceError(f"cannot load {name}: {type(error).__name__}: {line}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            raise SourceError(
                f"{name}: {kind.replace('_', ' ')} such as {sorted(map(str, info[kind]))[0]}; "
                "the weights do not belong to this config.json"
            )
    return LoadedModel(name, model.eval(), _token_inputs(model, seed), tokenizer=where)


def _factory(name: str, dtype: torch.dtype) -> LoadedModel:
    factory = find_attribute(name)
    with foreign_code(f"{name} failed", SourceError, "; it must return (model, example_inputs)"):
        model, inputs = factory()
    if not isinstance(model, nn.Module):
        raise SourceError(f"{name} returned a {type(model).__name__} where a torch.nn.Module was expected")
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    model = unwrapped(model).eval()
    return LoadedModel(name, model, cast_source(name, model, inputs, dtype))
