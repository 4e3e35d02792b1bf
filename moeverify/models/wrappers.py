"""Modules that wrap a model without changing what it computes: pruned through, or refused with the remedy."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from moeverify.base.versions import OLDEST_TRANSFORMERS, older_than
from moeverify.errors import PruningRefused
from moeverify.models.skeleton import has_config


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``.

    The wrapper shares its modules, so that it runs what was pruned. Raises ``PruningRefused`` for a model with adapters
    of PEFT, whose weights are a part of those that they adapt.
    """
    while True:
        if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        elif isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        else:
            break
    adapted = next((path for path, m in model.named_modules() if type(m).__module__.startswith("peft.")), None)
    if adapted is not None:
        where = f"{adapted} is" if adapted else "the model is"
        raise PruningRefused(f"{where} wrapped by adapters of PEFT; merge them first: model = model.merge_and_unload()")
    return model


def refuse_old_release(model: nn.Module) -> None:
    """Raise ``PruningRefused`` for a transformers model under a release that models are not pruned with."""
    version = older_than("transformers", OLDEST_TRANSFORMERS)
    if version is not None and any(has_config(module) for module in model.modules()):
        raise PruningRefused(
            f"models of transformers {version} are traced and inspected, but not pruned; "
            f"pip install 'transformers>={OLDEST_TRANSFORMERS}'"
        )
