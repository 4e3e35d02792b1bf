"""After progressive layered extraction (PLE): experts of each task and shared ones, in dictionaries, level by level."""

import torch
from torch import nn


class ExpertNet(nn.Module):
    def __init__(self, in_dim, hidden, out_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, out_dim), nn.ReLU())

    def forward(self, x):
        return self.net(x)


class CGC(nn.Module):
    """Customised gate control: one level of extraction."""

    def __init__(self, in_dim, hidden, out_dim, tasks, n_specific, n_shared, last):
        super().__init__()
        self.tasks = tasks
        self.last = last
        self.task_experts = nn.ModuleDict(
            {t: nn.ModuleList([ExpertNet(in_dim, hidden, out_dim) for _ in range(n_specific)]) for t in tasks}
        )
        self.shared_experts = nn.ModuleList([ExpertNet(in_dim, hidden, out_dim) for _ in range(n_shared)])
        self.task_gates = nn.ModuleDict({t: nn.Linear(in_dim, n_specific + n_shared) for t in tasks})
        if not last:
            self.shared_gate = nn.Linear(in_dim, len(tasks) * n_specific + n_shared)

    def forward(self, inputs):
        shared = [e(inputs["shared"]) for e in self.shared_experts]
        specific = {t: [e(inputs[t]) for e in self.task_experts[t]] for t in self.tasks}
        outputs = {}
        for t in self.tasks:
            experts = torch.stack(specific[t] + shared, dim=1)
            gate = self.task_gates[t](inputs[t]).softmax(-1)
            outputs[t] = (gate.unsqueeze(-1) * experts).sum(1)
        if not self.last:
            every = torch.stack([e for t in self.tasks for e in specific[t]] + shared, dim=1)
            gate = self.shared_gate(inputs["shared"]).softmax(-1)
            outputs["shared"] = (gate.unsqueeze(-1) * every).sum(1)
        return outputs


class PLE(nn.Module):
    def __init__(self, n_features=12, tasks=("click", "like", "share"), n_levels=2):
        super().__init__()
        self.tasks = tasks
        self.bottom = nn.Linear(n_features, 20)
        self.levels = nn.ModuleList(
            [CGC(20, 24, 20, tasks, n_specific=2, n_shared=2, last=i == n_levels - 1) for i in range(n_levels)]
        )
        self.towers = nn.ModuleDict(
            {t: nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Dropout(0.1), nn.Linear(10, 1)) for t in tasks}
        )

    def forward(self, x):
        x = torch.relu(self.bottom(x))
        inputs = {t: x for t in (*self.tasks, "shared")}
        for level in self.levels:
            inputs = level(inputs)
        return {t: self.towers[t](inputs[t]).squeeze(-1) for t in self.tasks}


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return PLE(), torch.randn(8, 12)
