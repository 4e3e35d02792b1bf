"""After mixture of tokens: tokens of a group are mixed for each expert, computed in stacks, and given back."""

import torch
from torch import nn


class ContinuousMoE(nn.Module):
    """``controller`` weighs tokens of a group; each expert computes one mixed token."""

    def __init__(self, dmodel, dff, n_experts=4, group_size=4, init=0.2):
        super().__init__()
        self.dmodel, self.dff, self.n_experts, self.group_size = dmodel, dff, n_experts, group_size
        self.expert_size = dff // n_experts
        self.lin1 = nn.Parameter(torch.randn(dmodel, n_experts, self.expert_size) * init)
        self.lin2 = nn.Parameter(torch.randn(dmodel, n_experts, self.expert_size) * init)
        self.controller = nn.Parameter(torch.randn(dmodel, n_experts) * 0.5)

    def forward(self, x):
        b, t, d = x.shape
        groups = x.view(b, t // self.group_size, self.group_size, d)
        weights = torch.einsum("bgsd,de->bgse", groups, self.controller).softmax(dim=-2)
        mixed = torch.einsum("bgsd,bgse->bged", groups, weights)
        hidden = torch.relu_(torch.einsum("bged,def->bgef", mixed, self.lin1))
        out = torch.einsum("bgef,def->bged", hidden, self.lin2)
        return torch.einsum("bged,bgse->bgsd", out, weights).reshape(b, t, d)


class Mixer(nn.Module):
    """Tokens mixed by a learned matrix of positions."""

    def __init__(self, dim, tokens):
        super().__init__()
        self.token_mix = nn.Linear(tokens, tokens)
        self.scale = nn.Parameter(torch.ones(dim))
        self.shift = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return self.token_mix((x * self.scale + self.shift).transpose(1, 2)).transpose(1, 2)


class ResMLP(nn.Module):
    def __init__(self, patch=4, size=16, dim=32, depth=2, classes=6):
        super().__init__()
        self.patch = patch
        tokens = (size // patch) ** 2
        self.embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.blocks = nn.ModuleList(
            [nn.ModuleList([Mixer(dim, tokens), nn.LayerNorm(dim), ContinuousMoE(dim, 64)]) for _ in range(depth)]
        )
        self.head = nn.Linear(dim, classes)

    def forward(self, images):
        x = self.embed(images).flatten(2).transpose(1, 2)
        for mixer, norm, moe in self.blocks:
            x = x + mixer(x)
            x = x + moe(norm(x))
        return self.head(x.mean(dim=1))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return ResMLP(), torch.randn(3, 3, 16, 16)
