"""Example inputs with images, for models that read patches beside tokens."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

_BEGIN = 2  # the place of the first image token


def with_images(model: nn.Module, inputs: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """``inputs`` with one image a text, where the model takes patches and their grid and runs with them; else as given.

    The interface is that of transformers' models with ``pixel_values`` and ``image_grid_thw``. Without images the
    vision tower would never run, and all its channels would be left alone.
    """
    config = getattr(model, "config", None)
    vision, token = getattr(config, "vision_config", None), getattr(config, "image_token_id", None)
    takes = inspect.signature(model.forward).parameters
    if vision is None or not isinstance(token, int) or not {"pixel_values", "image_grid_thw"} <= set(takes):
        return inputs
    numbers = {name: getattr(vision, name, None) for name in ("patch_size", "spatial_merge_size")}
    numbers["frames"] = getattr(vision, "temporal_patch_size", 1)
    numbers["channels"] = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
    sizes = {name: value for name, value in numbers.items() if isinstance(value, int) and value > 0}
    if len(sizes) < len(numbers):
        return inputs
    merge, values = sizes["spatial_merge_size"], sizes["channels"] * sizes["frames"] * sizes["patch_size"] ** 2
    side = 2 * merge
    texts = len(inputs["input_ids"])
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(texts * side * side, values, generator=generator)
    given: dict[str, Any] = {
        **inputs,
        "input_ids": _placed(inputs["input_ids"], config, token, side * side // merge**2),
        "pixel_values": pixels.to(next(model.parameters()).dtype),
        "image_grid_thw": torch.tensor([[1, side, side]] * texts),
    }
    if "mm_token_type_ids" in takes:
        given["mm_token_type_ids"] = (given["input_ids"] == token).int()
    return given if _runs(model, given) else inputs


def _placed(ids: torch.Tensor, config: Any, token: int, count: int) -> torch.Tensor:
    """Tokens with ``count`` places for an image between the marks of its begin and end, where there are such marks."""
    ids = ids.clone()
    ids[:, _BEGIN : _BEGIN + count] = token
    for name, place in (("vision_start_token_id", _BEGIN - 1), ("vision_end_token_id", _BEGIN + count)):
        if isinstance(mark := getattr(config, name, None), int):
            ids[:, place] = mark
    return ids


def _runs(model: nn.Module, inputs: dict[str, Any]) -> bool:
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model(**{name: value.to(device) for name, value in inputs.items()})
    except Exception:  # another interface behind the same names
        return False
    return True
