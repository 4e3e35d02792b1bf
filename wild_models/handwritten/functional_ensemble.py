"""After ensembles by ``torch.func``: states of a template stacked [experts, ...], called by ``vmap``, a gate on top."""

import copy

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap


class Specialist(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.fc1 = nn.Linear(dim, width)
        self.norm = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, dim)

    def forward(self, x):
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


class FunctionalMixture(nn.Module):
    def __init__(self, dim, width=20, num_experts=5):
        super().__init__()
        specialists = [Specialist(dim, width) for _ in range(num_experts)]
        params, _ = stack_module_state(specialists)
        self.names = list(params)
        self.stacked = nn.ParameterDict(
            {n.replace(".", "_"): nn.Parameter(p.detach().clone()) for n, p in params.items()}
        )
        self.template = [copy.deepcopy(specialists[0]).to("meta")]
        self.gate = nn.Linear(dim, num_experts)

    def forward(self, x):
        params = {n: self.stacked[n.replace(".", "_")] for n in self.names}

        def call(p, inputs):
            return functional_call(self.template[0], p, (inputs,))

        outputs = vmap(call, in_dims=(0, None), out_dims=0)(params, x)
        return torch.einsum("be,ebd->bd", self.gate(x).softmax(-1), outputs)


class Regressor(nn.Module):
    def __init__(self, features=9, dim=24):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(features, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.mix = FunctionalMixture(dim)
        self.out = nn.Linear(dim, 1)

    def forward(self, x):
        h = self.stem(x)
        return self.out(h + self.mix(h)).squeeze(-1)


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Regressor(), torch.randn(12, 9)
