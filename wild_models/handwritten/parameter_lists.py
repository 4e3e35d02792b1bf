"""After LLaMA-MoE: the experts' matrices in lists of parameters, a gate of two layers, tokens sorted by expert."""

import torch
import torch.nn.functional as F
from torch import nn


class LinearGLUExperts(nn.Module):
    def __init__(self, in_features, hidden_features, num_experts):
        super().__init__()
        self.in_features, self.hidden_features, self.num_experts = in_features, hidden_features, num_experts
        self.weight_gate = nn.ParameterList()
        self.weight_up = nn.ParameterList()
        self.weight_down = nn.ParameterList()
        for _ in range(num_experts):
            self.weight_gate.append(nn.Parameter(torch.randn(hidden_features, in_features) * 0.2))
            self.weight_up.append(nn.Parameter(torch.randn(hidden_features, in_features) * 0.2))
            self.weight_down.append(nn.Parameter(torch.randn(in_features, hidden_features) * 0.2))

    def forward(self, input, i):
        gate = F.silu(F.linear(input, self.weight_gate[i]))
        return F.linear(gate * F.linear(input, self.weight_up[i]), self.weight_down[i])


class TopKBalancedNoisyGate(nn.Module):
    def __init__(self, input_size, num_experts, num_selects):
        super().__init__()
        self.num_selects = num_selects
        self.gate_network = nn.Sequential(
            nn.Linear(input_size, num_experts, bias=False), nn.Tanh(), nn.Linear(num_experts, num_experts, bias=False)
        )
        self.weight_noise = nn.Linear(input_size, num_experts, bias=False)

    def forward(self, x):
        logits = self.gate_network(x)
        if self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(self.weight_noise(x))
        top_logits, top_indices = logits.topk(self.num_selects, dim=1)
        return top_indices, torch.softmax(top_logits, dim=1)


class UniversalCalculator(nn.Module):
    def __init__(self, experts, score_scale_factor=2.0):
        super().__init__()
        self.experts = experts
        self.num_experts = experts.num_experts
        self.score_scale_factor = score_scale_factor

    def forward(self, x, topK_indices, topK_scores):
        batch_size, num_selects = topK_indices.size(0), topK_indices.size(1)
        flat_indices, flat_scores = topK_indices.flatten(), topK_scores.flatten()
        batch_indices = torch.arange(batch_size, device=x.device).repeat_interleave(num_selects)
        _, order = flat_indices.sort(stable=True)
        sorted_batch = batch_indices[order]
        split = torch.bincount(flat_indices, minlength=self.num_experts).tolist()
        outputs = [self.experts(part, i) for i, part in enumerate(x[sorted_batch].split(split)) if split[i]]
        cat = torch.cat(outputs, 0) * (flat_scores[order] * self.score_scale_factor).unsqueeze(1)
        return torch.zeros_like(x).index_add(0, sorted_batch, cat)


class LinearGLUMoELayer(nn.Module):
    def __init__(self, input_size, hidden_size, num_experts, num_selects):
        super().__init__()
        self.gate = TopKBalancedNoisyGate(input_size, num_experts, num_selects)
        self.calculator = UniversalCalculator(LinearGLUExperts(input_size, hidden_size, num_experts))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        return self.calculator(flat, *self.gate(flat)).reshape(x.shape)


class Model(nn.Module):
    def __init__(self, vocab=60, dim=32):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, dim)
        self.attn = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.mlp = LinearGLUMoELayer(dim, 28, 4, 2)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab, bias=False)

    def forward(self, input_ids):
        x = self.embed_tokens(input_ids)
        h = self.norm1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return self.head(x + self.mlp(self.norm2(x)))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Model(), {"input_ids": torch.randint(0, 60, (2, 12))}
