"""After Megatron-Core's sequential experts: ``experts.local_experts``, a router of Sinkhorn, one choice a token."""

import torch
import torch.nn.functional as F
from torch import nn


def sinkhorn(cost, tol=0.0001):
    cost = torch.exp(cost)
    d0 = torch.ones(cost.size(0), device=cost.device, dtype=cost.dtype)
    d1 = torch.ones(cost.size(1), device=cost.device, dtype=cost.dtype)
    eps = 0.00000001
    error = 1e9
    d1_old = d1
    while error > tol:
        d0 = (1 / d0.size(0)) * 1 / (torch.sum(d1 * cost, 1) + eps)
        d1 = (1 / d1.size(0)) * 1 / (torch.sum(d0.unsqueeze(1) * cost, 0) + eps)
        error = torch.mean(torch.abs(d1_old - d1))
        d1_old = d1
    return d1 * cost * d0.unsqueeze(1)


class SwitchMLP(nn.Module):
    def __init__(self, hidden_size, ffn_hidden_size, num_experts, use_sinkhorn=True):
        super().__init__()
        self.router = nn.Linear(hidden_size, num_experts)
        self.use_sinkhorn = use_sinkhorn
        self.experts = nn.Module()
        self.experts.local_experts = nn.ModuleList(
            [ParallelMLP(hidden_size, ffn_hidden_size) for _ in range(num_experts)]
        )

    def forward(self, hidden_states):
        s, b, h = hidden_states.shape
        route = self.router(hidden_states).view(-1, len(self.experts.local_experts))
        if self.use_sinkhorn:
            with torch.no_grad():
                sinkroute = sinkhorn(route.detach().to(dtype=torch.float32))
                _, max_ind = torch.max(sinkroute, dim=1)
            max_prob = torch.sigmoid(route)[torch.arange(route.size(0)), max_ind]
        else:
            max_prob, max_ind = torch.max(torch.softmax(route, dim=1), dim=1)
        max_prob = max_prob.unsqueeze(1)
        hidden_states = hidden_states.reshape(-1, h)
        output_total = torch.zeros_like(hidden_states)
        for expert_num, expert in enumerate(self.experts.local_experts):
            local_indices = (max_ind == expert_num).nonzero()
            hidden = hidden_states[local_indices[:, 0], :]
            output_total[local_indices[:, 0], :] = expert(hidden)
        return (output_total * max_prob).view(s, b, h)


class ParallelMLP(nn.Module):
    def __init__(self, hidden_size, ffn_hidden_size):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(hidden_size, ffn_hidden_size)
        self.dense_4h_to_h = nn.Linear(ffn_hidden_size, hidden_size)

    def forward(self, x):
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x), approximate="tanh"))


class CoreAttention(nn.Module):
    def __init__(self, hidden_size, heads):
        super().__init__()
        self.np = heads
        self.hn = hidden_size // heads
        self.hidden_size_per_partition = hidden_size
        self.norm_factor = self.hn**0.5

    def forward(self, query, key, value):
        sq, b, n, hn = query.size()
        query = query.reshape(sq, b * n, hn)
        key = key.reshape(sq, b * n, hn)
        scores = torch.bmm(query.transpose(0, 1), key.permute(1, 2, 0)) / self.norm_factor
        mask = torch.ones(sq, sq, dtype=torch.bool, device=query.device).triu(1)
        probs = scores.view(b, n, sq, sq).masked_fill(mask, -10000.0).softmax(-1)
        value = value.reshape(sq, b * n, hn)
        context = torch.bmm(probs.view(b * n, sq, sq), value.transpose(0, 1))
        context = context.view(b, n, sq, hn).permute(2, 0, 1, 3).contiguous()
        return context.view(sq, b, self.hidden_size_per_partition)


class ParallelAttention(nn.Module):
    def __init__(self, hidden_size, heads):
        super().__init__()
        self.num_attention_heads_per_partition = heads
        self.hidden_size_per_attention_head = hidden_size // heads
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.core_attention = CoreAttention(hidden_size, heads)
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, x):
        mixed = self.query_key_value(x)
        mixed = mixed.view(
            *mixed.size()[:-1], self.num_attention_heads_per_partition, 3 * self.hidden_size_per_attention_head
        )
        q, k, v = torch.split(mixed, self.hidden_size_per_attention_head, dim=-1)
        return self.dense(self.core_attention(q, k, v))


class ParallelTransformerLayer(nn.Module):
    def __init__(self, hidden_size, heads, num_experts):
        super().__init__()
        self.input_norm = nn.LayerNorm(hidden_size)
        self.self_attention = ParallelAttention(hidden_size, heads)
        self.post_attention_norm = nn.LayerNorm(hidden_size)
        self.mlp = SwitchMLP(hidden_size, 3 * hidden_size, num_experts)

    def forward(self, x):
        x = x + self.self_attention(self.input_norm(x))
        return x + self.mlp(self.post_attention_norm(x))


class Model(nn.Module):
    def __init__(self, vocab=60, hidden_size=32, heads=4, layers=2, num_experts=3):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab, hidden_size)
        self.position_embeddings = nn.Embedding(16, hidden_size)
        self.layers = nn.ModuleList([ParallelTransformerLayer(hidden_size, heads, num_experts) for _ in range(layers)])
        self.final_norm = nn.LayerNorm(hidden_size)

    def forward(self, input_ids, position_ids):
        x = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)
        x = x.transpose(0, 1).contiguous()
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.final_norm(x), self.word_embeddings.weight).transpose(0, 1)


def make():
    """The model and its inputs."""
    torch.manual_seed(0)
    ids = torch.randint(0, 60, (2, 12))
    return Model(), {"input_ids": ids, "position_ids": torch.arange(12).expand(2, 12)}
