"""Cases from PyTorch's own operator samples (OpInfo), taken apart into the operations that they run."""

from __future__ import annotations

import functools
import itertools
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping

import torch
from hypothesis import settings
from torch.utils._pytree import tree_map

from tests.moeverify.coupling.rules.removal import OneCall, Recording

# Samples of each operator and cases of each operation, as many as the run's profile has time for.
SAMPLES, CASES = {"quick": (4, 8), "nightly": (200, 400)}.get(
    os.environ.get("MOEVERIFY_HYPOTHESIS_PROFILE", ""), (12, 24)
)
LARGEST = 4096  # elements of an input


@functools.cache
def opinfo_calls() -> Mapping[str, tuple[OneCall, ...]]:
    """Different executed operations by name, as the samples of every operator run them in float64 and int64."""
    profile = settings.get_current_profile_name()
    from torch.testing._internal.common_methods_invocations import op_db

    settings.load_profile(profile)  # PyTorch's modules load one of their own, with ten examples and other seeds
    found: dict[str, dict[str, OneCall]] = defaultdict(dict)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operator in op_db:
            for dtype in (torch.float64, torch.int64):
                if not operator.supports_dtype(dtype, "cpu"):
                    continue
                # Not operator.sample_inputs, which sets the seed of every device anew for each sample.
                samples = operator.sample_inputs_func(operator, "cpu", dtype, False)
                for sample in itertools.islice(samples, SAMPLES):
                    for call in _executed(operator, sample):
                        if len(found[call.name]) < CASES:
                            found[call.name].setdefault(signature(call), call)
    return {name: tuple(calls.values()) for name, calls in found.items()}


def _executed(operator, sample) -> list[OneCall]:
    try:
        with torch.no_grad(), Recording() as recording:
            operator(sample.input, *sample.args, **sample.kwargs)
    except (AssertionError, RuntimeError):  # made for an accelerator, or a sample of an error
        return []
    return [call for call in recording.calls if _usable(call)]


def _usable(call: OneCall) -> bool:
    """Dense tensors of a moderate size with something to remove."""
    inputs = call.inputs
    return all(t.layout is torch.strided and t.numel() <= LARGEST for t in inputs) and (
        not inputs or any(size > 1 for t in inputs for size in t.shape)
    )


def signature(call: OneCall) -> str:
    """What a call is but for the values of its tensors."""

    def shape(value):
        return (value.dtype, tuple(value.shape)) if isinstance(value, torch.Tensor) else value

    return repr((str(call.func), tree_map(shape, call.args), tree_map(shape, dict(call.kwargs))))
