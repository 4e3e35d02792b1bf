"""``kernel-ready``"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped
from moeverify.models.exercise import run_all
from moeverify.models.outputs import scale_of

IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
# How far implementations may differ, relative to the largest output; in 16 bits a token may change its expert.
AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-6}


@check("kernel-ready")
def kernel_ready(context: Context) -> Finding:
    """Proves that the pruned model runs in its stored precision with each implementation of experts that the original
    runs with (``eager``, ``batched_mm``, ``grouped_mm``). Outputs are finite, and in float32 and float64 they agree.

    Kernels take some sizes only: in 16 bits ``grouped_mm`` needs multiples of eight. Says nothing of kernels that this
    machine does not have, nor of a precision that the model is not stored in (``--dtype bfloat16``).
    """
    original, pruned = context.original, context.pruned
    if not hasattr(pruned, "set_experts_implementation") or not any(
        layer.layout == "fused" for layer in context.roles.layers
    ):
        return skipped("the experts have one implementation only: they are not fused experts of transformers")
    inputs = context.draw(11)
    dtype = next(pruned.parameters()).dtype
    ran: dict[str, float] = {}
    without: dict[str, str] = {}
    reference: dict[str, torch.Tensor] | None = None
    original_first: dict[str, torch.Tensor] | None = None
    for name in IMPLEMENTATIONS:
        before, problem = _run_with(original, name, inputs)
        if before is None:
            without[name] = problem
            continue
        after, problem = _run_with(pruned, name, inputs)
        if after is None:
            return failed(
                f"the original runs with {name} experts in {_short(dtype)}, the pruned model does not: {problem}"
            )
        endless = next((n for n, output in after.items() if not _finite_as(output, before.get(n))), None)
        if endless is not None:
            return failed(
                f"the pruned model gives NaN or infinity in {endless} with {name} experts in {_short(dtype)}",
                output=endless,
            )
        reference, original_first = reference or after, original_first or before
        ran[name] = _largest_gap(after, reference)
        if ran[name] > (allowed := AGREEMENT.get(dtype, float("inf"))):
            if (own := _largest_gap(before, original_first)) > allowed:
                return inconclusive(
                    f"with {name} experts the original's output differs by {own:.1e} as well, so its kernels cannot be "
                    "compared; see deterministic"
                )
            return failed(f"with {name} experts the pruned model's output differs by {ran[name]:.1e}", differences=ran)
    if not ran:
        return skipped(f"the original runs with no implementation in {_short(dtype)}", problems=without)
    return passed(f"runs in {_short(dtype)} with {', '.join(ran)} experts", differences=ran, not_available=without)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _finite_as(output: torch.Tensor, original: torch.Tensor | None) -> bool:
    """Whether all values are finite. Exception: infinities that the original has in the same places."""
    usable = output.isfinite()
    if original is not None and original.shape == output.shape:
        usable = usable | (original.isinf() & (original == output))
    return bool(usable.all())


def _gap(output: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    if output.shape != reference.shape:
        return float("inf")
    usable = output.isfinite() & reference.isfinite()
    return float((output - reference)[usable].abs().max()) / (scale_of(reference) or 1.0) if usable.any() else 0.0


def _largest_gap(outputs: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]) -> float:
    """Largest difference over the outputs that both have.

    Exception: outputs of one side, since some implementations record more router logits than others.
    """
    return max((_gap(output, reference[n]) for n, output in outputs.items() if n in reference), default=0.0)


def _run_with(model: nn.Module, implementation: str, inputs: Any) -> tuple[dict[str, torch.Tensor] | None, str]:
    """Outputs with one implementation of experts, or ``None``; also the error, if any."""
    try:
        with _implementation(model, implementation):
            return {name: output.double() for name, output in run_all(model, inputs).items()}, ""
    except Exception as error:  # whatever a kernel or transformers says
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:300]


@contextlib.contextmanager
def _implementation(model: Any, name: str) -> Iterator[None]:
    previous = getattr(model.config, "_experts_implementation", None)
    model.set_experts_implementation(name)
    try:
        configs = [m.config for m in model.modules() if hasattr(m, "config")]
        if all(getattr(c, "_experts_implementation", None) != name for c in configs):
            raise NotImplementedError("its experts have one implementation only")
        yield
    finally:
        if previous is not None:
            model.set_experts_implementation(previous)
