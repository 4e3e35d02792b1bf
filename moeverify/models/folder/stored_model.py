"""A model whose weights stay in its checkpoint folder, read as they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from moeverify.base.collector import without_collector
from moeverify.errors import SourceError
from moeverify.models.checkpoints import load_configuration, one_line, quiet_transformers, token_inputs
from moeverify.models.classes import model_class
from moeverify.models.folder.assembly import Assembly, Naming, name_tensors
from moeverify.models.folder.blocks import Blocks, put_together
from moeverify.models.folder.inventory import Inventory, take_inventory
from moeverify.models.folder.reader import Reader
from moeverify.models.folder.skeleton import Skeleton
from moeverify.models.folder.stored_tensor import StoredTensor
from moeverify.models.images import with_images
from moeverify.models.quantised import quantisation_of
from moeverify.models.skeleton import without_initial_values
from moeverify.models.sources import LoadedModel
from moeverify.models.stored import read_configuration, read_stored
from moeverify.models.zoo.build import float32_rule


class HeldInMemory(SourceError):
    """A folder that cannot be read tensor by tensor, and why; it can still be loaded as a whole."""


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model on stored weights, and the folder that it reads from."""

    loaded: LoadedModel
    folder: Path
    inventory: Inventory
    naming: Naming
    skeleton: Skeleton
    blocks: Blocks

    @property
    def model(self) -> Any:
        """The model; its parameters are ``StoredTensor``."""
        return self.loaded.model


def open_stored_model(name: str, folder: Path, dtype: torch.dtype, *, seed: int = 0) -> StoredModel:
    """Build the model of a folder without reading its weights. No code of the folder is run.

    Raises ``HeldInMemory`` for a folder that only the loader of transformers can read, ``SourceError`` for one that
    is no checkpoint.
    """
    with without_collector():  # the model's code is imported
        return _opened(name, folder, dtype, seed)


def _opened(name: str, folder: Path, dtype: torch.dtype, seed: int) -> StoredModel:
    document = read_configuration(folder, name)
    if document["model_type"] == "synthetic_moe":
        import synthetic_models  # noqa: F401  registers the type
    read_stored(folder)
    config = load_configuration(name, str(folder))
    if quantisation_of(config.to_dict()):
        raise HeldInMemory("its weights are stored quantised")
    model = _built(name, config, dtype)
    inventory = take_inventory(folder)
    skeleton = Skeleton(model, config)
    naming = name_tensors(inventory.tensors, skeleton, Reader())
    _check_whole(inventory, naming)
    tensors = _readable(model, naming, skeleton, dtype)
    blocks = Blocks(tensors)
    _put_stored(model, blocks)
    _take_generation_settings(model, folder)
    inputs = with_images(model, token_inputs(model, seed), seed)
    tokenizer = str(folder) if list(folder.glob("tokenizer*")) else None
    loaded = LoadedModel(name, model, inputs, tokenizer=tokenizer)
    return StoredModel(loaded, folder, inventory, naming, skeleton, blocks)


def _built(name: str, config: Any, dtype: torch.dtype) -> nn.Module:
    """The model with parameters on the meta device, and buffers that hold what their class computes."""
    kind = model_class(config)
    model: Any
    try:
        with quiet_transformers(), init_empty_weights(include_buffers=False), without_initial_values():
            if hasattr(kind, "_model_mapping"):
                model = kind.from_config(config, dtype=dtype, attn_implementation="eager", trust_remote_code=False)
            else:
                model = kind._from_config(config, dtype=dtype, attn_implementation="eager")
    except Exception as error:
        raise SourceError(f"cannot build {name} from its configuration: {one_line(error)}") from error
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    built: nn.Module = model.eval()
    return built


def _check_whole(inventory: Inventory, naming: Naming) -> None:
    """Leave a folder that is not whole to the loader of transformers, which reports or repairs it."""
    for lines in (inventory.problems, tuple(naming.broken), naming.missing, naming.unexpected, naming.misnumbered):
        if lines:
            raise HeldInMemory(f"its tensors do not all fit its configuration ({lines[0]})")


def _readable(
    model: nn.Module, naming: Naming, skeleton: Skeleton, dtype: torch.dtype
) -> dict[str, tuple[Assembly, torch.dtype]]:
    """Reader of each tensor of the model, tied ones under each name, and its type in memory."""
    rule = float32_rule(model, dtype)
    twins: dict[str, str] = {}
    for other, first in skeleton.tied.items():
        twins |= {other: first} if first in naming.tensors else {first: other}
    result = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise HeldInMemory(f"{name} is no tensor")
        stored = name if name in naming.tensors else twins.get(name, name)
        if stored not in naming.tensors:
            raise HeldInMemory(f"{name} is not stored, and its initial values are drawn on loading")
        wanted = torch.float32 if rule is not None and rule.search(name) else tensor.dtype
        result[name] = (naming.tensors[stored], wanted)
    return result


def _put_stored(model: nn.Module, blocks: Blocks) -> None:
    """Stored tensors in place of parameters, one for all names of a tied one, and the values of saved buffers."""
    made: dict[int, nn.Parameter] = {}
    saved = model.state_dict().keys()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for leaf, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                made[id(parameter)] = _stored_parameter(prefix + leaf, parameter, blocks)
            module._parameters[leaf] = made[id(parameter)]
        for leaf, buffer in module._buffers.items():
            if buffer is not None and prefix + leaf in saved:
                module._buffers[leaf] = put_together(*blocks.tensors[prefix + leaf])


def _stored_parameter(name: str, parameter: nn.Parameter, blocks: Blocks) -> nn.Parameter:
    _, dtype = blocks.tensors[name]
    shape_only = torch.empty(parameter.shape, dtype=dtype, device="meta")
    stored = StoredTensor(
        shape_only, lambda: blocks.read(name), read_rows=lambda first, last: blocks.read(name, (first, last))
    )
    return nn.Parameter(stored, requires_grad=parameter.requires_grad and dtype.is_floating_point)


def _take_generation_settings(model: Any, folder: Path) -> None:
    """The settings that ``from_pretrained`` would take from beside the weights, so that they are saved again."""
    if (folder / "generation_config.json").is_file() and getattr(model, "generation_config", None) is not None:
        from transformers import GenerationConfig

        with quiet_transformers():
            model.generation_config = GenerationConfig.from_pretrained(str(folder))
