"""Torch-Pruning as a subject: the one that is installed, or a fork in a folder."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.coupling.couplings import trace_couplings
from moeverify.coupling.tracing.trace import MODEL_OUTPUT
from moeverify.errors import MoEVerifyError, SourceError
from moeverify.models.left_alone import named_parts
from moeverify.models.roles import Roles


def output_layers(model: nn.Module, example_inputs: Any, roles: Roles | None = None) -> list[nn.Module]:
    """Layers whose output channels are the model's output, whatever they are called, and layers with a single output
    channel.

    Users of Torch-Pruning pass them as ``ignored_layers``. Where the model cannot be traced: ``lm_head``.
    """
    try:
        couplings = trace_couplings(model, example_inputs, roles=roles)
    except MoEVerifyError:
        head = getattr(model, "lm_head", None)
        return [] if head is None else [head]
    owners = {f.parameter.rpartition(".")[0] for f in couplings.frozen if f.dim == 0 and f.reason == MODEL_OUTPUT}
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    return [
        module
        for path, module in model.named_modules()
        if path in owners or (isinstance(module, layers) and module.weight.shape[0] == 1)
    ]


def prune_stock(
    model: nn.Module,
    example_inputs: Any,
    *,
    pruning_ratio: float,
    seed: int,
    round_to: int | None = 4,
    ignore: Sequence[str] = (),
    roles: Roles | None = None,
    importance: Any = None,
) -> Any:
    """``BasePruner`` of the ``torch_pruning`` that is imported, with the guide's call; ``step`` is not called yet."""
    tp: Any = importlib.import_module("torch_pruning")
    torch.manual_seed(seed)
    return tp.pruner.BasePruner(
        model,
        example_inputs,
        importance=importance or tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        global_pruning=False,
        output_transform=lambda out: getattr(out, "logits", out),
        pruning_ratio=pruning_ratio,
        ignored_layers=[*output_layers(model, example_inputs, roles), *named_parts(model, ignore)],
        round_to=round_to,
    )


def fork_package(folder: Path) -> Path | None:
    """The folder to import a fork from: ``folder`` itself, its ``src``, or its parent if it is the package itself."""
    if folder.name == "torch_pruning" and (folder / "__init__.py").is_file():
        return folder.parent
    for place in (folder, folder / "src"):
        if (place / "torch_pruning" / "__init__.py").is_file():
            return place
    return None


def use_fork(folder: Path) -> Callable[..., Any]:
    """Import ``torch_pruning`` from a folder in place of the installed one, in this process, and return the subject.

    Our own pruner keeps the one that it was imported with. Raises ``SourceError`` if the folder holds no such package
    or it cannot be imported.
    """
    place = fork_package(folder)
    if place is None:
        raise SourceError(
            f"{folder} holds no torch_pruning package; name the fork's checkout or its torch_pruning folder"
        )

    for name in [n for n in sys.modules if n == "torch_pruning" or n.startswith("torch_pruning.")]:
        del sys.modules[name]
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module("torch_pruning")
    except Exception as error:
        raise SourceError(f"cannot import the fork in {folder}: {left_by(error)}") from error
    if not Path(module.__file__ or "").resolve().is_relative_to(place.resolve()):
        raise SourceError(f"torch_pruning was imported from {module.__file__}, not from {place}")

    @functools.wraps(prune_stock)
    def prune_fork(*arguments: Any, **options: Any) -> Any:
        return prune_stock(*arguments, **options)

    prune_fork.__doc__ = f"Torch-Pruning {getattr(module, '__version__', '')} in {folder}."
    return prune_fork
