"""The trained small model pruned by an importance, and scored."""

import copy
import functools

import torch
import torch_pruning as tp

from moeverify.coupling.classify import ROLES
from moeverify.evaluation import EvaluationSettings, evaluate
from moeverify.evaluation.tokenizer import load_tokenizer
from moeverify.models.sources import load_source
from moeverify.pruning import MoEPruner
from synthetic_models.small.train import Recipe, batches

EXPERTS_ONLY = {role: 0 for role in ROLES if role != "routed_experts"}


@functools.cache
def small():
    """The model, not to be changed."""
    return load_source("small")


@functools.cache
def tokenizer():
    return load_tokenizer(small().tokenizer)


@functools.cache
def calibration(count=3):
    stream = batches(Recipe(seed=7, rows=16), tokenizer().get_vocab())
    return [next(stream) for _ in range(count)]


def score(model, tasks=("small_add", "small_shift"), limit=60):
    return evaluate(model, tokenizer(), EvaluationSettings(tasks, limit=limit))


def magnitude(model):
    return tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")


def random(model):
    return tp.importance.RandomImportance()


def taylor(model):
    for batch in calibration():
        model(input_ids=batch.tokens, labels=batch.labels).loss.backward()
    return tp.importance.GroupTaylorImportance()


def pruned(ratio, importance=magnitude, seed=0, model=None):
    """A copy with ``ratio`` of each routed expert's channels removed."""
    model = copy.deepcopy(model or small().model)
    torch.manual_seed(seed)
    MoEPruner(
        model, small().example_inputs, importance=importance(model), pruning_ratio=ratio, ratios=EXPERTS_ONLY
    ).step()
    return model.eval()
