"""Run one ordinary forward and keep how every operation relates dimensions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from moeverify.base.collector import without_collector
from moeverify.base.foreign import left_by
from moeverify.coupling.relations import Trace
from moeverify.coupling.solving.divisions import state_common_factors
from moeverify.coupling.solving.expert_slices import state_expert_slices
from moeverify.coupling.tracing.escapes import Escapes
from moeverify.coupling.tracing.idle import Idle, idle_results
from moeverify.coupling.tracing.opaque import Opaque, opaque_layers
from moeverify.coupling.tracing.recorder import Recorder
from moeverify.coupling.tracing.siblings import Siblings
from moeverify.coupling.tracing.weightless import Imagination, fake_weights, is_weightless
from moeverify.errors import TraceError
from moeverify.models.containers import leaves
from moeverify.models.forward import (
    Example,
    eager_attention,
    module_paths,
    plain_operations,
    static_experts,
)
from moeverify.models.moe_layer import ancestors
from moeverify.models.state import same_start

# Why dimensions of what a forward returns are frozen.
MODEL_OUTPUT = "dimension of the model's output"


def trace(
    model: nn.Module,
    example: Example,
    *,
    expert_lists: Sequence[Sequence[str]] = (),
    opaque: Mapping[str, Opaque] | None = None,
    training: Collection[str] = (),
    keep_made: bool = False,
) -> Trace:
    """Trace one forward of ``model``, called by ``example``.

    ``expert_lists`` names the listed experts of each MoE layer (module paths). An expert that the example input does
    not reach is covered by what a reached sibling did, so that its dimensions are known as well. ``opaque`` gives
    layers, by path, that are not looked into. The modules named in ``training`` run in training mode, all others in
    evaluation mode. ``keep_made`` keeps the dimensions of every result. Raises ``TraceError`` if the model's forward
    fails.
    """
    given = (expert_lists, opaque, training)
    imagined: dict[str, int] = {}
    idle = Idle()
    if is_weightless(model):
        imagination = Imagination()
        with fake_weights(model, example.inputs) as fake_inputs, static_experts(model):
            recorder = Recorder(model, imagination)
            # Without data nothing can leave the dispatcher unseen, so nothing is frozen for it.
            _record(model, replace(example, inputs=fake_inputs), recorder, *given)
        imagined = dict(imagination.made_up)
    else:
        recorder = Recorder(model)
        before = torch.get_rng_state()

        def run(under: Recorder) -> list[Any]:
            return _record(model, example, under, *given)

        output = run(recorder)
        idle = idle_results(recorder, output, lambda: Recorder(model), run, before)
        recorder.freeze_unread(idle.results)
    experts = {path for paths in expert_lists for path in paths}
    sliced = state_expert_slices(recorder.relations, recorder.tensors)
    state_common_factors(recorder.relations)
    return Trace(
        relations=recorder.relations,
        tensors=recorder.tensors,
        aliases=recorder.aliases,
        buffers=recorder.buffers,
        unknown=dict(recorder.unknown),
        failed=dict(recorder.failed),
        untouched=tuple(n for n in recorder.parameters if n not in recorder.touched),
        imagined=imagined,
        made=recorder.made_dims if keep_made else (),
        sliced=sliced,
        # An expert that only ran on a sibling's tokens gives nothing that is read.
        idle=tuple(sorted(n for n in idle.parameters if experts.isdisjoint(ancestors(n)))),
    )


def _record(
    model: nn.Module,
    example: Example,
    recorder: Recorder,
    expert_lists: Sequence[Sequence[str]],
    opaque: Mapping[str, Opaque] | None,
    training: Collection[str],
) -> list[Any]:
    """Run the forward under ``recorder``; returns the output, transformed and as it was."""
    modules = dict(model.named_modules())
    modes = [(module, module.training) for module in modules.values()]
    for name, module in modules.items():
        module.training = name in training
    siblings = Siblings(expert_lists, modules, recorder, copy=not opaque)
    try:
        with (
            same_start(model),
            without_collector(),
            torch.no_grad(),
            eager_attention(model),
            plain_operations(model),
            module_paths(model, recorder.modules),
            opaque_layers(modules, recorder, opaque or {}),
            Escapes(recorder.escape),
            recorder,
        ):
            for leaf in leaves(example.inputs):
                if isinstance(leaf, torch.Tensor):
                    recorder.relations.freeze_all(recorder.produce(leaf), "dimension of the model's input")
            with siblings.watched():
                given = example(model)
                siblings.reach()
            end = recorder.relations.current
            output = example.transformed(given)
            # What the transform computes with, such as ``out.logits.sum()``, is the model's output all the same.
            computed_with = [leaf for leaf in leaves(given) if recorder.was_read_after(leaf, end)]
            recorder.freeze([*leaves(output), *computed_with], MODEL_OUTPUT)
    except TraceError:
        raise
    except Exception as error:
        line = left_by(error)
        raise TraceError(
            f"the model's forward failed while it was traced ({line}); check that it runs with these example inputs"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    return [output, given]
