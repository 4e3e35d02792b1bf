"""Small networks without experts, each with one thing that a dependency graph must get right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c2, self.b2 = nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.b1(self.c1(x)))
        x = F.max_pool2d(torch.relu(self.b2(self.c2(x))), 2)
        return self.fc(x.mean((2, 3)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.c1, self.b1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.down = nn.Conv2d(8, 16, 1, stride=2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + torch.relu(self.b1(self.c1(x)))
        x = self.c2(x) + self.down(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 1)
        self.bn = nn.BatchNorm2d(16)
        self.c = nn.Conv2d(16, 4, 3)

    def forward(self, x):
        return self.c(torch.relu(self.bn(torch.cat([self.a(x), self.b(x)], 1))))


class Dense(nn.Module):
    """Every layer reads all before it, as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3)])
        self.head = nn.Conv2d(15, 5, 1)

    def forward(self, x):
        found = [x]
        for layer in self.layers:
            found.append(torch.relu(layer(torch.cat(found, 1))))
        return self.head(torch.cat(found, 1)).mean((2, 3))


class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3)
        self.a, self.b = nn.Conv2d(4, 5, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x):
        a, b = torch.split(self.stem(x), [4, 6], 1)
        return self.a(a), self.b(b)


class Flatten(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 6, 3)
        self.fc1, self.fc2 = nn.Linear(6 * 4 * 4, 10), nn.Linear(10, 3)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(torch.relu(self.c(x)), 4)
        return self.fc2(torch.relu(self.fc1(torch.flatten(x, 1))))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(6, 8)
        self.c = nn.Linear(8, 3)

    def forward(self, x, y):
        return self.c(torch.relu(self.a(x)) * self.b(y))


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.left, self.right = nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.body(x))
        return {"left": self.left(x), "right": self.right(x)}


class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.shared(torch.relu(self.shared(x))))


class GroupedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.b = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        return self.b(torch.relu(self.grouped(torch.relu(self.a(x)))))


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.depth, self.bn = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.b(F.hardtanh(self.bn(self.depth(self.a(x)))))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x * torch.sigmoid(self.up(torch.relu(self.down(F.adaptive_avg_pool2d(x, 1))))))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.up, self.b = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return self.b(torch.relu(self.up(F.interpolate(self.a(x), scale_factor=2))))


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.norm = nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.InstanceNorm2d(8, affine=True)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.b(self.norm(self.act(self.a(x))))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))


class OneDimensional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.b = nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 4, 1)

    def forward(self, x):
        return self.b(torch.relu(self.bn(self.a(x)))).mean(-1)


class TextMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 20)

    def forward(self, ids):
        x = self.embed(ids)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x)


class Scaled(nn.Module):
    """A loose parameter between two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return self.b(torch.relu(self.a(x)) * self.scale)


class Chunked(nn.Module):
    """Equal halves, gated: the halves are one set of channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 12), nn.Linear(6, 3)

    def forward(self, x):
        gate, up = self.a(x).chunk(2, -1)
        return self.b(torch.sigmoid(gate) * up)


IMAGE = (torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)),)
ROW = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),)

# Network, example inputs.
NETS: dict[str, tuple[type[nn.Module], tuple]] = {
    **{
        kind.__name__: (kind, IMAGE)
        for kind in (
            Plain,
            Residual,
            Concat,
            Dense,
            Split,
            Flatten,
            UsedTwice,
            GroupedConv,
            Depthwise,
            SqueezeExcite,
            Transposed,
            Norms,
            Grouped,
        )
    },
    **{kind.__name__: (kind, ROW) for kind in (TwoOutputs, Scaled, Chunked)},
    "TwoInputs": (TwoInputs, (torch.randn(3, 4), torch.randn(3, 6))),
    "OneDimensional": (OneDimensional, (torch.randn(2, 4, 9),)),
    "TextMLP": (TextMLP, (torch.arange(12).view(2, 6),)),
}
