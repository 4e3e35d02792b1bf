"""Models from checkpoints: a folder or a hub name, loaded by the class that the configuration names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.base.text import printable
from moeverify.errors import SourceError
from moeverify.models.classes import model_class
from moeverify.models.limits import check_sizes
from moeverify.models.quantised import forget_quantisation, quantisation_of
from moeverify.models.stored import read_configuration, read_stored, resave_command

_NO_WORDS = re.compile(r"(image|video|audio|vision|speech|media|boi|eoi|boa|eoa)\w*_token_(id|index)")


@dataclass(frozen=True)
class Loading:
    """Options of loading a checkpoint: number type, whether code beside it may run, and device."""

    dtype: torch.dtype
    trust_remote_code: bool = False
    device: str = "cpu"


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


def load_checkpoint(name: str, where: str, loading: Loading) -> tuple[nn.Module, tuple[str, ...]]:
    """The model of a folder or hub name in evaluation mode, and notes on how it was loaded.

    Raises ``SourceError`` with one line for what cannot be loaded, or would be loaded in part.
    """
    folder = Path(where)
    if folder.is_dir():
        document = read_configuration(folder, name)
        if document["model_type"] == "synthetic_moe":
            import synthetic_models  # noqa: F401  registers the type
        read_stored(folder)
    config = load_configuration(name, where, trust_remote_code=loading.trust_remote_code)
    quantised = quantisation_of(config.to_dict())
    more: dict[str, Any] = quantised.arguments(name) if quantised else {}
    if loading.device != "cpu":
        more["device_map"] = loading.device
    kind = model_class(config, trust_remote_code=loading.trust_remote_code)
    try:
        with quiet_transformers():
            model, info = kind.from_pretrained(
                where,
                dtype=loading.dtype,
                attn_implementation="eager",
                use_safetensors=True,
                trust_remote_code=loading.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told in the info, by name, and refused below
                **more,
            )
    except Exception as error:
        raise SourceError(f"cannot load {name}: {one_line(error)}") from error
    _check_complete(name, where, type(model).__name__, info)
    if quantised is None:
        return model.eval(), ()
    forget_quantisation(model, loading.dtype)
    return model.eval(), (quantised.note(loading.dtype),)


def load_configuration(name: str, where: str, *, trust_remote_code: bool = False) -> Any:
    """The configuration in a folder, a ``config.json`` or of a hub name; no code beside it runs without the flag.

    Raises ``SourceError`` with one line if transformers does not know it or it asks for more than any model has.
    """
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            # Passed explicitly: without it, transformers asks on the terminal whether the code may run.
            config = AutoConfig.from_pretrained(where, trust_remote_code=bool(trust_remote_code))
    except Exception as error:
        if asks_for_code(error):
            raise SourceError(
                f"cannot load {name}: {CODE_OF_ITS_OWN}; read it, and pass --trust-remote-code if you trust it"
            ) from error
        raise SourceError(
            f"cannot load {name}: not a configuration that transformers knows: {one_line(error)}"
        ) from error
    check_sizes(config.to_dict(), name)
    return config


CODE_OF_ITS_OWN = "its architecture is Python code beside the weights, which is not run"


def asks_for_code(error: Exception) -> bool:
    """Whether transformers refused a configuration since it names Python code, in words meant for its own callers."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)


def _check_complete(name: str, where: str, model: str, info: Mapping[str, Any]) -> None:
    if missing := sorted(map(str, info.get("missing_keys") or ())):
        raise SourceError(f"{name}: missing keys such as {missing[0]}; its weights are not those of this config.json")
    if mismatched := sorted(map(str, info.get("mismatched_keys") or ())):
        raise SourceError(f"{name}: mismatched keys such as {mismatched[0]}: other sizes than config.json says")
    if left := sorted(map(str, info.get("unexpected_keys") or ())):
        many = f"{len(left)} tensors" if len(left) > 1 else "a tensor"
        raise SourceError(
            f"{name} holds {many} that {model} does not take, such as {left[0]}; it would be lost: move it to a file "
            f"of its own, or write the folder anew without it: {resave_command(where)}"
        )


def one_line(error: BaseException) -> str:
    """Type and message of an error, in one line of bounded length."""
    return printable(left_by(error))[:300]


def token_inputs(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Random tokens for a model, none of which is a placeholder for an image or a sound."""
    generator = torch.Generator().manual_seed(seed)
    size = _vocabulary(model)
    ids = torch.randint(0, size, (2, 32), generator=generator)
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        special = _without_words(config.to_dict())
        plain = [token for token in range(min(size, 64 + len(special))) if token not in special]
        for token in special if plain else ():
            ids[ids == token] = plain[token % len(plain)]
    inputs = {"input_ids": ids}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids.clone()
    return inputs


def _vocabulary(model: nn.Module) -> int:
    embedding = None
    if (input_embeddings := getattr(model, "get_input_embeddings", None)) is not None:
        with contextlib.suppress(NotImplementedError, AttributeError):
            embedding = input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    return embedding.num_embeddings if embedding is not None else 2


def _without_words(document: Mapping[str, Any]) -> set[int]:
    """Tokens that stand for something other than text, by their names in the configuration."""
    result = set()
    for key, value in document.items():
        if isinstance(value, Mapping):
            result |= _without_words(value)
        elif isinstance(value, int) and not isinstance(value, bool) and _NO_WORDS.fullmatch(key):
            result.add(value)
    return result
