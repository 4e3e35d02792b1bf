"""No check cries wolf: whatever model is drawn, the right pruner passes all of them."""

import functools
import random
import time
import warnings

import pytest
from hypothesis import given, note, reject, seed, settings
from hypothesis import strategies as st

import synthetic_models
from moeverify.checks import default_names
from moeverify.models.sources import LoadedModel
from moeverify.models.zoo import zoo_types
from moeverify.subjects import prune_moe
from moeverify.verdict import PROBLEMS
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.executors.local import run_locally
from moeverify.verification.executors.registry import Work
from moeverify.verification.in_process import run_case
from moeverify.verification.limits import Limits
from synthetic_models import Spec
from synthetic_models.names import FAMILIES
from synthetic_models.strategies import specs

RATIOS = (0.5, 0.25, 0.125, 0.75)


def verdicts_on(spec, ratio, checks):
    """Problems that checks have with our pruner on a spec, by check."""
    loaded = LoadedModel("synthetic", synthetic_models.build(spec).eval(), synthetic_models.example_inputs(spec))
    patterns = FAMILIES[spec.names].patterns
    roles = dict(zip(("experts", "routers", "shared_experts"), patterns, strict=True)) if patterns else {}
    case = Case("synthetic", pruning_ratio=ratio, seed=spec.seed, dtype=spec.dtype, checks=checks, roles=roles)
    verdicts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes left alone
        run_case(
            case,
            lambda e: isinstance(e, VerdictReached) and verdicts.append(e.verdict),
            loaded=loaded,
            subject=functools.partial(prune_moe, round_to=None),
        )
    return {v.check: v.message for v in verdicts if v.status in PROBLEMS}


NIGHTLY = settings.get_current_profile_name() == "nightly"


# Every day the same draws, whatever the text of this test; others each night.
@pytest.mark.slow
@(seed(random.randrange(2**32)) if NIGHTLY else seed(11))
@(settings() if NIGHTLY else settings(max_examples=settings().max_examples // 2))
@given(spec=specs(), ratio=st.sampled_from(RATIOS))
def test_every_check_passes_on_the_right_pruner(spec, ratio):
    problems = verdicts_on(spec, ratio, default_names())
    if "refused" in problems.get("terminates", ""):
        reject()  # an architecture whose configuration cannot express a pruned size
    note(str(spec))
    assert problems == {}


# A few cases every day, many by night.
ZOO_CASES = max(4, settings().max_examples // 10)


@pytest.mark.nightly
def test_every_check_passes_on_zoo_models():
    """Types in turn, at ratios, precisions and seeds drawn anew each night."""
    draw = random.Random(time.time_ns() if NIGHTLY else 11)
    types = draw.sample(zoo_types(), min(ZOO_CASES, len(zoo_types())))
    cases = [
        Case(
            f"zoo:{name}",
            pruning_ratio=draw.choice(RATIOS),
            seed=draw.randrange(1000),
            dtype=draw.choice(("float32", "bfloat16")),
            checks=default_names(),
        )
        for name in types
    ]
    heard = []
    run_locally(
        Work(cases, lambda _: Limits(600.0), lambda e: isinstance(e, VerdictReached) and heard.append(e.verdict), 1)
    )
    problems = [v for v in heard if v.status in PROBLEMS and "the subject refused" not in v.message]
    assert [(v.reproduce, v.check, v.message) for v in problems] == []
    assert len(heard) >= len(cases)


# What drawn specs have found: a check that cried wolf, each for a reason of its own.
FOUND = {
    "a router left with one input": (
        0.75,
        {"activation": "geglu", "attention": "per_head_norm", "features": 8, "head_dim": 8, "hidden": 4,
         "names": "mixtral", "router": "noisy", "router_hidden": 4, "seed": 275, "storage": "fused_interleaved",
         "top_k": 3, "widths": [8, 8, 8, 8], "cycles": [["twice", 4], ["roll", 3], ["ring", 2]]},
    ),
    "a router of groups left with one input": (
        0.75,
        {"activation": "geglu", "attention": "none", "groups": 4, "chosen_groups": 3, "hidden": 12, "length": 3,
         "layers": ["moe"], "residual": "post", "router": "group_limited", "router_hidden": 4, "seed": 300,
         "shared": "one", "storage": "fused_transposed", "widths": [6, 6, 6, 6, 6, 6, 6, 6]},
    ),
    "a router beside the experts of another layer": (
        0.25,
        {"activation": "geglu", "attention": "multi_head", "batch": 1, "bias": True, "dense_width": 8,
         "names": "mixtral", "layers": ["moe", "dense", "moe"], "residual": "post", "router": "group_limited",
         "router_hidden": 8, "seed": 593, "shared": "gated", "shared_width": 8, "storage": "fused_transposed",
         "tied_embeddings": True, "vocab": 8, "widths": [8, 8, 8, 8],
         "cycles": [["shared_experts_between_layers", 1], ["rotate_half", 2]]},
    ),
    "a sigmoid that is one for several experts": (
        0.5,
        {"activation": "geglu", "attention": "latent", "hidden": 4, "kv_heads": 4, "layers": ["dense", "moe"],
         "length": 3, "names": "mixtral", "norm": "layer", "router": "group_limited", "router_hidden": 4, "seed": 589,
         "widths": [4, 4, 4, 4]},
    ),
    "a layer norm of the two channels that are left": (
        0.5,
        {"activation": "swiglu", "attention": "none", "hidden": 4, "layers": ["moe", "moe"], "names": "qwen",
         "norm": "layer", "residual": "post", "seed": 878, "shared": "one", "storage": "fused_transposed", "vocab": 8,
         "widths": [4, 4, 4], "cycles": [["cat_slice", 1]]},
    ),
    "experts that depend on each other, of which none can go": (
        0.5,
        {"activation": "geglu", "hidden": 16, "length": 8, "names": "mixtral", "norm": "layer", "residual": "parallel",
         "router": "hash", "seed": 26, "shared": "several", "shared_width": 8, "vocab": 8, "widths": [6, 6],
         "cycles": [["roll", 3], ["tied_experts", 1], ["chain", 1]]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("found", FOUND)
def test_alarms_of_the_past(found):
    ratio, spec = FOUND[found]
    checks = ("something-pruned", "forward-every-expert", "masked-equivalence", "coupling-complete")
    assert verdicts_on(Spec.from_dict(spec), ratio, checks) == {}
