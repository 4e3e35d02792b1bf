"""After hierarchical mixtures: a gate chooses a group, a gate of the group chooses an expert; lists in a list."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Gating(nn.Module):
    def __init__(self, input_dim, num_outputs):
        super().__init__()
        self.layer = nn.Linear(input_dim, num_outputs)

    def forward(self, x):
        return torch.softmax(self.layer(x), dim=-1)


class FeedForwardExpert(nn.Module):
    def __init__(self, input_dim, hidden_dim):
        super().__init__()
        self.fc1 = nn.Linear(input_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, input_dim)

    def forward(self, x):
        return self.fc2(F.leaky_relu(self.fc1(x), 0.1))


class HierarchicalMoE(nn.Module):
    def __init__(self, input_dim, hidden_dim, outer=2, inner=3):
        super().__init__()
        self.outer, self.inner = outer, inner
        self.outer_gate = Gating(input_dim, outer)
        self.inner_gates = nn.ModuleList([Gating(input_dim, inner) for _ in range(outer)])
        self.groups = nn.ModuleList(
            [nn.ModuleList([FeedForwardExpert(input_dim, hidden_dim) for _ in range(inner)]) for _ in range(outer)]
        )

    def forward(self, x):
        outer_weights = self.outer_gate(x)
        total = 0
        for g in range(self.outer):
            inner_weights = self.inner_gates[g](x)
            group = torch.stack([expert(x) for expert in self.groups[g]], dim=-1)
            total = total + outer_weights[..., g : g + 1] * (group * inner_weights.unsqueeze(-2)).sum(-1)
        return total


class TextClassifier(nn.Module):
    def __init__(self, vocab_size=50, embed_dim=24, hidden_dim=20, num_classes=3):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=0)
        self.lstm = nn.LSTM(embed_dim, embed_dim, batch_first=True)
        self.moe = HierarchicalMoE(embed_dim, hidden_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.classifier = nn.Linear(embed_dim, num_classes)

    def forward(self, tokens):
        x, _ = self.lstm(self.embedding(tokens))
        x = self.norm(x + self.moe(x))
        return {"logits": self.classifier(x.mean(dim=1)), "states": x}


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return TextClassifier(), torch.randint(1, 50, (4, 9))
