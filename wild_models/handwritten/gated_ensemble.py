"""After tabular mixtures (TabM, ModernNCA style): an ensemble of experts by ``vmap``-like batched linear layers."""

import torch
import torch.nn as nn


class BatchedLinear(nn.Module):
    """``k`` linear layers at once: weight [k, in, out], bias [k, out]."""

    def __init__(self, k, in_features, out_features):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(k, in_features, out_features).uniform_(-0.3, 0.3))
        self.bias = nn.Parameter(torch.empty(k, out_features).uniform_(-0.1, 0.1))

    def forward(self, x):
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class MixtureOfMLPs(nn.Module):
    def __init__(self, n_num=7, cardinalities=(5, 3), d_embedding=4, k=4, d_block=32, d_out=1):
        super().__init__()
        self.k = k
        self.embeddings = nn.ModuleList([nn.Embedding(c, d_embedding) for c in cardinalities])
        d_in = n_num + len(cardinalities) * d_embedding
        self.gate = nn.Sequential(nn.Linear(d_in, 16), nn.ReLU(), nn.Linear(16, k), nn.Softmax(dim=-1))
        self.experts = nn.Sequential(
            BatchedLinear(k, d_in, d_block), nn.ReLU(), BatchedLinear(k, d_block, d_block), nn.ReLU()
        )
        self.output = BatchedLinear(k, d_block, d_out)

    def forward(self, x_num, x_cat):
        x = torch.cat([x_num] + [e(x_cat[:, i]) for i, e in enumerate(self.embeddings)], dim=1)
        alpha = self.gate(x)
        h = self.output(self.experts(x.unsqueeze(0).expand(self.k, -1, -1)))
        return torch.einsum("kbo,bk->bo", h, alpha)


def make():
    """The model and its inputs."""
    torch.manual_seed(0)
    return MixtureOfMLPs(), (torch.randn(8, 7), torch.randint(0, 3, (8, 2)))
