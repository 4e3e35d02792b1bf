"""What a pruned model must compute: the unpruned one with everything that a plan removed held at zero, in float64.

Norms see the kept channels only. This knows layer norms and means over the last dimension, by its width: models that
are judged with it have no two classes of one width.
"""

import copy

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map


def double(value):
    """Floating-point tensors of a nested value in float64."""
    return tree_map(lambda t: t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t, value)


class KeptStatistics(TorchFunctionMode):
    """Computes norms of zeroed models over the channels that a plan keeps."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        kept = (
            self.kept.get(args[0].shape[-1]) if args and isinstance(args[0], torch.Tensor) and args[0].dim() else None
        )
        if kept is None:
            return func(*args, **kwargs)
        if func is F.layer_norm:
            given = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False)) | kwargs
            x = given["input"]
            part = [t if t is None else t[kept] for t in (given.get("weight"), given.get("bias"))]
            seen = F.layer_norm(x[..., kept], (len(kept),), *part, given.get("eps", 1e-5))
            return torch.zeros_like(x).index_copy(-1, kept, seen)
        if func in (torch.mean, torch.Tensor.mean) and -1 in (*args[1:], kwargs.get("dim")):
            return func(args[0][..., kept], *args[1:], **kwargs)
        return func(*args, **kwargs)


@torch.no_grad()
def difference(original, pruned, plan, inputs):
    """The largest difference between the two, relative to the largest output; ``original`` was not pruned."""
    masked = copy.deepcopy(original).double()
    tensors = dict([*masked.named_parameters(remove_duplicate=False), *masked.named_buffers(remove_duplicate=False)])
    kept = {}
    for (name, dim), positions in plan.keep.items():
        assert tensors[name].shape[dim] == plan.sizes[name, dim]
        if positions.ndim == 1:
            gone = np.setdiff1d(np.arange(tensors[name].shape[dim]), positions)
            tensors[name].data.index_fill_(dim, torch.as_tensor(gone), 0.0)
        else:
            for expert, row in enumerate(positions):
                gone = np.setdiff1d(np.arange(tensors[name].shape[dim]), row)
                tensors[name].data[expert].index_fill_(dim - 1, torch.as_tensor(gone), 0.0)
    for member in (m for cut in plan.cuts for m in cut.pruning_class.coupling.members if m.positions.shape[1] == 1):
        positions = plan.keep[member.parameter, member.dim]
        if positions.ndim == 1 and len(member.positions) == plan.sizes[member.parameter, member.dim]:
            kept[len(member.positions)] = torch.as_tensor(positions)
    inputs = double(inputs)
    call = (lambda m: m(**inputs)) if isinstance(inputs, dict) else (lambda m: m(inputs))
    with KeptStatistics(kept):
        wanted = [t for t in tree_leaves(call(masked)) if isinstance(t, torch.Tensor)]
    got = [t for t in tree_leaves(call(copy.deepcopy(pruned).double())) if isinstance(t, torch.Tensor)]
    assert [t.shape for t in got] == [t.shape for t in wanted]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, wanted, strict=True))
