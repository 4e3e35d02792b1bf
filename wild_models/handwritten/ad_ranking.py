"""After rankers of advertisements: bags of past items, crossed features, specialists that a gate of each task picks."""

import torch
import torch.nn as nn


class Tower(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, hidden), nn.BatchNorm1d(hidden), nn.PReLU(), nn.Linear(hidden, 1))

    def forward(self, x):
        return self.net(x).squeeze(-1)


class AdRanker(nn.Module):
    def __init__(self, n_users=40, n_items=60, d=16, n_experts=6, top_k=2, tasks=("click", "buy")):
        super().__init__()
        self.user = nn.Embedding(n_users, d)
        self.history = nn.EmbeddingBag(n_items, d, mode="mean")
        self.item = nn.Embedding(n_items, d)
        self.dense = nn.Linear(5, d)
        width = 4 * d
        self.cross_w = nn.Parameter(torch.randn(width, width) * 0.05)
        self.cross_b = nn.Parameter(torch.zeros(width))
        self.specialists = nn.ModuleList(self._expert(width) for _ in range(n_experts))
        self.dispatcher = nn.ModuleDict(
            {t: nn.Sequential(nn.Linear(width, 12), nn.Tanh(), nn.Linear(12, n_experts)) for t in tasks}
        )
        self.towers = nn.ModuleDict({t: Tower(32, 24) for t in tasks})
        self.top_k = top_k

    @staticmethod
    def _expert(width):
        return nn.Sequential(nn.Linear(width, 48), nn.Dropout(0.1), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())

    def forward(self, user, items, item, dense):
        x = torch.cat([self.user(user), self.history(items), self.item(item), self.dense(dense)], dim=-1)
        x = x * (x @ self.cross_w + self.cross_b) + x
        outs = torch.stack([s(x) for s in self.specialists], dim=1)
        answers = {}
        for task, dispatch in self.dispatcher.items():
            scores = dispatch(x)
            keep = scores.topk(self.top_k, dim=-1).indices
            mask = torch.full_like(scores, float("-inf")).scatter(-1, keep, 0.0)
            p = (scores + mask).softmax(-1)
            answers[task] = torch.sigmoid(self.towers[task]((p.unsqueeze(-1) * outs).sum(1)))
        return answers


def make():
    """The model and its inputs."""
    torch.manual_seed(0)
    model = AdRanker()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model, {
        "user": torch.randint(0, 40, (24,)),
        "items": torch.randint(0, 60, (24, 7)),
        "item": torch.randint(0, 60, (24,)),
        "dense": torch.randn(24, 5),
    }
