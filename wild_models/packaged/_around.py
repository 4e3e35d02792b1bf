"""What stands around a layer of a package: words, one block of the layer, answers."""

import torch
from torch import nn


class Around(nn.Module):
    """An embedding, a layer on ``[batch, length, width]`` behind a norm, and a head; only its first output counts."""

    def __init__(self, layer, width=32, words=50):
        super().__init__()
        self.embed, self.norm, self.layer = nn.Embedding(words, width), nn.LayerNorm(width), layer
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, words)

    def forward(self, ids):
        x = self.embed(ids)
        x = x + self.mlp(x)
        out = self.layer(self.norm(x))
        return self.head(x + (out[0] if isinstance(out, tuple) else out))


def around(make, length=12):
    """A model around what ``make`` makes, and its input."""
    torch.manual_seed(0)
    return Around(make()).eval(), torch.randint(0, 50, (2, length))
