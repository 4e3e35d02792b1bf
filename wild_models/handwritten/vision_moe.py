"""After V-MoE: a vision transformer whose last blocks route patches; noise in training, capacity and priority."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class MlpBlock(nn.Module):
    def __init__(self, dim, mlp_dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class NoisyTopExpertsPerItemRouter(nn.Module):
    def __init__(self, dim, num_experts, num_selected, noise_std=1.0):
        super().__init__()
        self.num_experts, self.num_selected, self.noise_std = num_experts, num_selected, noise_std
        self.dense = nn.Linear(dim, num_experts, bias=False)

    def forward(self, x):
        logits = self.dense(x)
        if self.training:
            logits = logits + torch.randn_like(logits) * self.noise_std / self.num_experts
        return logits.softmax(dim=-1)


class MlpMoeBlock(nn.Module):
    """Batch-prioritised routing: tokens with the largest weight are served first."""

    def __init__(self, dim, mlp_dim, num_experts, num_selected=1, capacity_ratio=1.5):
        super().__init__()
        self.router = NoisyTopExpertsPerItemRouter(dim, num_experts, num_selected)
        self.mlps = nn.ModuleList([MlpBlock(dim, mlp_dim) for _ in range(num_experts)])
        self.capacity_ratio = capacity_ratio

    def forward(self, inputs):
        b, s, d = inputs.shape
        x = inputs.reshape(b * s, d)
        gates = self.router(x)
        weights, experts = gates.topk(self.router.num_selected, dim=-1)
        capacity = max(1, round(b * s * self.router.num_selected * self.capacity_ratio / self.router.num_experts))
        order = torch.argsort(weights[:, 0], descending=True)
        out = torch.zeros_like(x)
        for index, mlp in enumerate(self.mlps):
            wanted = (experts[order] == index).any(-1).nonzero(as_tuple=True)[0][:capacity]
            tokens = order[wanted]
            if tokens.numel():
                weight = (weights * (experts == index)).sum(-1)[tokens]
                out[tokens] = out[tokens] + mlp(x[tokens]) * weight.unsqueeze(-1)
        return out.reshape(b, s, d)


class EncoderBlock(nn.Module):
    def __init__(self, dim, heads, mlp_dim, moe):
        super().__init__()
        self.ln1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=0.0, batch_first=True)
        self.ln2 = nn.LayerNorm(dim, eps=1e-6)
        self.moe = MlpMoeBlock(dim, mlp_dim, moe) if moe else None
        self.mlp = None if moe else MlpBlock(dim, mlp_dim)

    def forward(self, x):
        y = self.ln1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = self.ln2(x)
        return x + (self.moe(y) if self.moe is not None else self.mlp(y))


class VisionTransformerMoe(nn.Module):
    def __init__(self, image=16, patch=4, dim=32, depth=3, heads=4, mlp_dim=56, num_experts=4, classes=9):
        super().__init__()
        self.hidden_dim = dim
        self.conv_proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, dim) * 0.1)
        self.blocks = nn.ModuleList(
            [EncoderBlock(dim, heads, mlp_dim, num_experts if i >= depth - 2 else 0) for i in range(depth)]
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        n = x.shape[0]
        x = self.conv_proj(x)
        x = x.reshape(n, self.hidden_dim, -1).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(n, -1, -1), x], dim=1) + self.pos_embedding
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return VisionTransformerMoe(), torch.randn(2, 3, 16, 16)
