"""Base of the faults of whole experts: our pruner's right removal of half of them, and the means to spoil it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from moeverify.subjects.moe import prune_moe
from moeverify.subjects.protocol import Pruned


class Removal:
    """A model that rightly lost half of its experts, beside the original; channels stay as they were."""

    def __init__(self, model: nn.Module, example_inputs: Any, *, seed: int) -> None:
        self.model = model
        self.original = copy.deepcopy(model)
        self.outcome: Pruned = prune_moe(model, example_inputs, pruning_ratio=0.0, seed=seed, ratios={"experts": 0.5})
        assert self.outcome.plan is not None
        self.cuts = self.outcome.plan.experts

    @property
    def kept(self) -> list[int]:
        """Experts that the first MoE layer rightly keeps."""
        return self.cuts[0].kept.tolist()

    @property
    def gone(self) -> list[int]:
        """Experts that the first MoE layer rightly loses."""
        return list(self.cuts[0].removed)

    @property
    def layer(self) -> str:
        """The path of the first MoE layer."""
        return self.cuts[0].layer

    def name(self, ending: str) -> str:
        """The first parameter or buffer of the first MoE layer whose name ends so. Raises ``LookupError`` without."""
        for name in self.model.state_dict():
            if name.startswith(f"{self.layer}.") and name.endswith(ending):
                return name
        raise LookupError(f"no tensor of {self.layer} ends in {ending}")

    def recut(self, ending: str, experts: Sequence[int], dim: int = 0) -> None:
        """Put the original's values of other experts, or in another order, into a tensor of the first MoE layer."""
        name = self.name(ending)
        values = self.original.state_dict()[name].index_select(dim, torch.tensor(experts))
        self.put(name, values)

    def put(self, name: str, values: torch.Tensor) -> None:
        """Replace a tensor, whatever its new shape."""
        owner, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(owner)
        if leaf in module._buffers:
            module._buffers[leaf] = values.clone()
        else:
            setattr(module, leaf, nn.Parameter(values.clone()))
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape

    def edit(self, ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace a tensor's values by ``change`` of them."""
        name = self.name(ending)
        self.put(name, change(self.model.state_dict()[name].clone()))

    def set_entries(self, **entries: int) -> None:
        """Set entries of the configuration, and attributes of the same name in every module."""
        for name, value in entries.items():
            setattr(self.model.config, name, value)
            for module in self.model.modules():
                if isinstance(vars(module).get(name), int):
                    setattr(module, name, value)
