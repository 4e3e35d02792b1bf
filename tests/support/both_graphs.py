"""The same network on Torch-Pruning's dependency graph and on ours."""

from __future__ import annotations

import warnings
from unittest import mock

import torch
import torch_pruning as tp
from conv_nets import NETS
from torch import nn
from torch_pruning.pruner.algorithms import base_pruner

import moeverify as mv

HEADS = {
    "Plain": ["fc"],
    "Residual": ["fc"],
    "Concat": ["c"],
    "Flatten": ["fc2"],
    "UsedTwice": ["head"],
    "GroupedConv": ["b"],
    "Depthwise": ["b"],
    "SqueezeExcite": ["b"],
    "Transposed": ["b"],
    "Norms": ["b"],
    "Grouped": ["b"],
    "TwoOutputs": ["left", "right"],
    "Scaled": ["b"],
    "TwoInputs": ["c"],
    "OneDimensional": ["b"],
    "TextMLP": ["head"],
}


def fresh(name):
    """A network of ``conv_nets`` with reproducible weights, its inputs and its output layers."""
    kind, inputs = NETS[name]
    torch.manual_seed(0)
    model = kind().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.3, 0.5)
    return model, inputs, [getattr(model, head) for head in HEADS[name]]


def stock_graph(model, inputs, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of loose parameters and unknown operations
        given = inputs if len(inputs) > 1 else inputs[0]
        return tp.DependencyGraph().build_dependency(model, given, **options)


def stock_pruner_on_our_graph(kind, *arguments, **options):
    """A pruner of Torch-Pruning's that builds an ``MoEDependencyGraph``."""
    with mock.patch.object(base_pruner.dependency, "DependencyGraph", mv.MoEDependencyGraph):
        pruner = kind(*arguments, **options)
    assert isinstance(pruner.DG, mv.MoEDependencyGraph)
    return pruner


def shapes(model):
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def outputs(model, inputs):
    with torch.no_grad():
        found = model(*inputs)
    return list(found.values()) if isinstance(found, dict) else [found]


def assert_same(ours, stock, inputs):
    """The same shapes, and the same answers."""
    assert shapes(ours) == shapes(stock)
    for mine, theirs in zip(outputs(ours, inputs), outputs(stock, inputs), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
