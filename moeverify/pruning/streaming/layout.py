"""Tensors of the pruned folder: names and shapes on disk, in the layout that the base is stored in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moeverify.models.checkpoints import one_line
from moeverify.models.folder.stored_model import HeldInMemory
from moeverify.models.folder.writer import ShardWriter
from moeverify.models.stored import INDEX, SINGLE

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Group:
    """Tensors of the model that are written together, by name, such as the projections of one joint matrix.

    ``converter`` is that of transformers which gives the tensors on disk; ``None`` if they are only renamed.
    """

    names: tuple[str, ...]
    converter: Any = None


class Layout:
    """The names on disk of a pruned model, as ``save_pretrained`` would write it.

    Args:
        model: The pruned model on the meta device.
        conversions: Those that the base's names asked for on loading; they are reversed.

    """

    def __init__(self, model: Any, conversions: Iterable[Any]) -> None:
        self.model = model
        model._weight_conversions = list(conversions)
        reverse = [conversion.reverse_transform() for conversion in model._weight_conversions[::-1]]
        self._converters = [one for one in reverse if hasattr(one, "operations")]
        self._renamings = [one for one in reverse if not hasattr(one, "operations")]
        self.groups = self._grouped(_saved(model))

    def _grouped(self, state: Tensors) -> list[Group]:
        result: dict[tuple[str, bool], list[str]] = {}
        matching: dict[tuple[str, bool], Any] = {}
        for name in state:
            key, found = name, None
            for converter in self._converters:
                key, pattern = converter.rename_source_key(key)
                if pattern is not None:
                    found = converter
                    break
            result.setdefault((key, found is not None), []).append(name)
            matching.setdefault((key, found is not None), found)
        return [Group(tuple(names), matching[key]) for key, names in result.items()]

    def written(self, group: Group, values: Tensors) -> dict[str, torch.Tensor]:
        """The tensors of a group as they are stored, by their names on disk.

        Raises ``HeldInMemory`` if the conversion of transformers does not take them.
        """
        if group.converter is None:
            (name,) = group.names
            for renaming in self._renamings:
                name, _ = renaming.rename_source_key(name)
            return {name: values[group.names[0]]}
        from transformers.core_model_loading import revert_weight_conversion

        try:
            return revert_weight_conversion(self.model, {name: values[name] for name in group.names})
        except Exception as error:
            raise HeldInMemory(f"{group.names[0]} cannot be written as it was stored: {one_line(error)}") from error


def _saved(model: Any) -> Tensors:
    """Tensors that ``save_pretrained`` saves: not those that the model's class leaves out, and tied tensors once."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    left_out = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
    return remove_tied_weights_from_state_dict(state, model)


@dataclass(frozen=True)
class Shards:
    """The files of a folder, and which one holds each tensor, by names on disk."""

    writers: tuple[ShardWriter, ...]
    holder: Mapping[str, ShardWriter]

    def flush(self) -> None:
        """Wait until the disk has what was written."""
        for writer in self.writers:
            writer.flush()

    def create(self, folder: Path, parameters: int) -> None:
        """Write the headers, and the index if there are several files."""
        for writer in self.writers:
            writer.create()
        if len(self.writers) == 1:
            return
        size = sum(slot.nbytes for writer in self.writers for slot in writer.slots.values())
        index = {
            "metadata": {"total_parameters": parameters, "total_size": size},
            "weight_map": {name: writer.path.name for name, writer in self.holder.items()},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")


def divide(folder: Path, tensors: Tensors, most: int | None) -> Shards:
    """Divide tensors among files of at most ``most`` bytes, in their order; ``None`` puts all into one file."""
    parts: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        nbytes = tensor.numel() * tensor.dtype.itemsize
        if most is not None and size + nbytes > most and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += nbytes
    names = [f"model-{n:05}-of-{len(parts):05}.safetensors" for n in range(1, len(parts) + 1)]
    paths = [folder / (SINGLE if len(parts) == 1 else name) for name in names]
    writers = tuple(ShardWriter(path, part) for path, part in zip(paths, parts, strict=True))
    return Shards(writers, {name: writer for writer in writers for name in writer.slots})
