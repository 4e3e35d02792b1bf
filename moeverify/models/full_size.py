"""Models of their real size, built from a configuration alone: shapes without weights, on the meta device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moeverify.base.imports import find_attribute
from moeverify.errors import SourceError
from moeverify.models.checkpoints import load_configuration, one_line
from moeverify.models.classes import build_model
from moeverify.models.sources import LoadedModel, source_kind
from moeverify.models.stored import read_configuration
from moeverify.models.zoo.published import full_size_config

_TOKENS = (2, 32)
_MORE_TOKENS = (2, 256)


def is_configuration(name: str) -> bool:
    """Whether a source is a ``config.json``, or a folder with nothing but one: there are no weights to load."""
    path = Path(name).expanduser()
    if path.is_file():
        return path.suffix == ".json"
    return (path / "config.json").is_file() and not any(path.glob("*.safetensors"))


def load_full_size(name: str, *, trust_remote_code: bool = False) -> LoadedModel:
    """Build the model that a source names without its weights, in bfloat16.

    ``zoo:TYPE`` is what transformers' configuration class builds by default, or a published checkpoint where that is no
    model. A ``config.json``, a checkpoint folder or a hub name are built by their configuration; a factory is called on
    the meta device. No code of a checkpoint is run unless ``trust_remote_code``. Raises ``SourceError`` if the
    configuration does not give a model.
    """
    path = Path(name).expanduser()
    if path.is_file():
        kind, rest = "folder", str(path)
    else:
        kind, rest = source_kind(name)
    if kind == "synthetic":
        raise SourceError(f"{name} is of its full size already; leave --full-size out")
    if kind == "factory":
        model, inputs = _on_meta(name)
        return LoadedModel(name, model, inputs)
    notes: tuple[str, ...] = ()
    if kind == "zoo":
        config, note = full_size_config(rest)
        notes = (note,) if note else ()
    else:
        config = _configuration(name, kind, rest, trust_remote_code)
    try:
        with torch.device("meta"):
            model = build_model(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise SourceError(f"cannot build {name} from its configuration: {one_line(error)}") from error
    return LoadedModel(name, model.eval(), _tokens(model, _TOKENS), notes)


def with_more_tokens(loaded: LoadedModel) -> LoadedModel:
    """The same model with a longer input.

    Some layers, such as those that compress a window into one position, run only on long inputs.
    """
    return replace(loaded, example_inputs=_tokens(loaded.model, _MORE_TOKENS))


def _tokens(model: torch.nn.Module, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    ids = torch.zeros(shape, dtype=torch.long)
    twice = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return {"input_ids": ids, "decoder_input_ids": ids} if twice else {"input_ids": ids}


def _configuration(name: str, kind: str, rest: str, trust_remote_code: bool) -> Any:
    if kind == "folder":
        path = Path(rest)
        read_configuration(path, name)
        file = path if path.is_file() else path / "config.json"
        # Code of a checkpoint's own is looked up beside its configuration, and only in a folder.
        rest = str(file.parent if trust_remote_code and file.name == "config.json" else file)
    return load_configuration(name, rest, trust_remote_code=trust_remote_code)


def _on_meta(name: str) -> tuple[torch.nn.Module, Any]:
    factory = find_attribute(name)
    try:
        with torch.device("meta"):
            model, inputs = factory()
    except (Exception, SystemExit, GeneratorExit) as error:
        raise SourceError(f"{name} failed on the meta device: {one_line(error)}") from error
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    return model.eval(), inputs
