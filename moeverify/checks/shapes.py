"""``shapes``"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from moeverify.checks.context import Context
from moeverify.checks.evidence.own_sizes import contradictions
from moeverify.checks.evidence.shrunk import shrunk_dim, used_elsewhere
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed
from moeverify.models.exercise import run_tensors
from moeverify.models.outputs import main_output

# Other inputs that the original runs on, to see whether the shape of an output depends on the data.
_OTHERS = 3


@check("shapes")
def shapes(context: Context) -> Finding:
    """Proves that the pruned model runs. Every tensor that it returns is finite and has its original shape. The
    attributes of every torch layer fit its weight.

    Exception: an output such as a cache of keys may lose channels that another output of the original depends on. The
    main output (``logits``, or the first) may not. The verdict names the exception. Does not prove that the values are
    right.
    """
    if problem := _own_sizes(context):
        return problem
    inputs = context.draw(0)
    try:
        original = run_tensors(context.original, inputs)
    except Exception as error:
        return inconclusive(f"the original itself does not run on drawn inputs: {type(error).__name__}: {error}; "
                            "give example inputs that others can be drawn from")  # fmt: skip
    try:
        got = run_tensors(context.pruned, inputs)
    except Exception as error:
        return failed(f"the pruned model does not run: {type(error).__name__}: {error}", error=repr(error))
    if got.keys() != original.keys():
        name = min(got.keys() ^ original.keys())
        if unsteady := context.behaviour.unsteady:
            return inconclusive(
                f"the original's {unsteady} differs between two equal forwards, and so may {name}; see deterministic"
            )
        return failed(f"{name} is returned by {'the pruned model' if name in got else 'the original'} alone")
    finding = _shapes(context, inputs, original, got)
    if isinstance(finding, Finding):
        return finding
    if problem := _finite(original, got):
        return problem
    one = next(iter(got.values()), None)
    text = f"runs, output {list(one.shape)} as before" if len(got) == 1 and one is not None else (
        f"runs, {len(got) - len(finding)} outputs of the shapes they had")  # fmt: skip
    text += "".join(f"; {name} {text}" for name, text in finding.items())
    alone = inputs is context.drawer.example
    if alone:
        reason = next(iter(context.drawer.refusals.values()), "nothing in them can vary")
        text += f"; all checks use the example inputs alone, since the original takes no others ({reason})"
    return passed(text, caveat=True) if alone or finding else passed(text)


def _own_sizes(context: Context) -> Finding | None:
    """Finding for the first torch layer whose attributes give another size than its weight; else ``None``.

    Unless the original has such a layer of the same class.
    """
    usual = {type(context.original.get_submodule(path)) for path, _ in contradictions(context.original)}
    for name, (says, holds) in contradictions(context.pruned):
        if type(context.pruned.get_submodule(name)) not in usual:
            return failed(
                f"the attributes of {name} give its weight the shape {list(says)}, and it is {list(holds)}; "
                "set them when you cut the weight",
                module=name,
                says=says,
                holds=holds,
            )
    return None


def _shapes(
    context: Context, inputs: Any, original: dict[str, torch.Tensor], got: dict[str, torch.Tensor]
) -> Finding | dict[str, str]:
    """A finding if an output does not have the shape that it must have; else remarks on those that shrank."""
    lost: dict[str, tuple[int, int]] = {}
    main = main_output(original)
    for name, before in original.items():
        after = got[name]
        if after.shape == before.shape or _by_data(context, name, before, after):
            continue
        dim = shrunk_dim(before.shape, after.shape)
        if name == main or dim is None or not before.is_floating_point():
            return failed(_differs(name, before, after), output=name)
        lost[name] = (dim, before.shape[dim] - after.shape[dim])
    if not lost:
        return {}
    used = used_elsewhere(context.original, lambda model: run_tensors(model, inputs), context.kept, lost)
    for name, elsewhere in used.items():
        differs = _differs(name, original[name], got[name])
        if elsewhere is False:
            return failed(f"{differs}; no other output uses what it lost", output=name)
        if elsewhere is None:
            return inconclusive(
                f"{differs}, and no cut layer is seen to make it; leave it out of what the model returns", output=name
            )
    remarks: dict[str, str] = {}
    for name in lost:
        before, after = list(original[name].shape), list(got[name].shape)
        remarks[name] = f"shrank from {before} to {after} with channels that other outputs use"
    return remarks


def _by_data(context: Context, name: str, before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether ``after`` differs from ``before`` only in sizes that also differ in the original for other inputs."""
    if before.dim() != after.dim():
        return False
    free: set[int] = set()
    for number in range(1, 1 + _OTHERS):
        with contextlib.suppress(Exception):  # the original may refuse inputs; others of them tell
            other = run_tensors(context.original, context.draw(number)).get(name)
            if other is not None and other.dim() == before.dim():
                free |= {d for d in range(before.dim()) if other.shape[d] != before.shape[d]}
    return all(d in free for d in range(before.dim()) if after.shape[d] != before.shape[d])


def _differs(name: str, before: torch.Tensor, after: torch.Tensor) -> str:
    the = "the output" if name == "output" else name
    return f"{the} has shape {list(after.shape)}, it had {list(before.shape)}"


def _finite(original: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> Finding | None:
    """Message about values that are not finite. Exception: infinities that the original has in the same places."""
    for name, before in original.items():
        the, after = "the output" if name == "output" else name, got[name]
        if before.shape != after.shape and before.isfinite().all() and after.isfinite().all():
            continue
        if before.isnan().any() or (before.isinf().any() and before.shape != after.shape):
            text = f"the original's own {the.removeprefix('the ')} holds NaN or infinity; give example inputs without"
            return inconclusive(text, output=name)
        if not (after.isfinite() | (before.isinf() & (after == before))).all():
            finite = int(after.isfinite().sum())
            return failed(f"{the} holds NaN or infinity", output=name, finite=finite, of=after.numel())
    return None
