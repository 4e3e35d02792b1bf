"""After PEER: experts of one neuron, kept in two embeddings and found by product keys."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import einsum


class PEER(nn.Module):
    def __init__(self, dim, heads=2, num_experts=64, num_experts_per_head=4, dim_key=8):
        super().__init__()
        self.norm = nn.RMSNorm(dim)
        self.heads = heads
        self.num_experts = num_experts
        self.num_experts_per_head = num_experts_per_head
        self.num_keys = int(num_experts**0.5)
        self.dim_key = dim_key
        self.weight_down_embed = nn.Embedding(num_experts, dim)
        self.weight_up_embed = nn.Embedding(num_experts, dim)
        self.to_queries = nn.Linear(dim, dim_key * heads * 2, bias=False)
        self.keys = nn.Parameter(torch.randn(heads, self.num_keys, 2, dim_key) * 0.3)

    def forward(self, x):
        x = self.norm(x)
        b, n, _ = x.shape
        queries = self.to_queries(x).view(b, n, 2, self.heads, self.dim_key).permute(2, 0, 1, 3, 4)
        sim = einsum("p b n h d, h k p d -> p b n h k", queries, self.keys)
        scores_x, indices_x = sim[0].topk(self.num_experts_per_head, dim=-1)
        scores_y, indices_y = sim[1].topk(self.num_experts_per_head, dim=-1)
        all_scores = (scores_x[..., :, None] + scores_y[..., None, :]).flatten(-2)
        all_indices = (indices_x[..., :, None] * self.num_keys + indices_y[..., None, :]).flatten(-2)
        scores, pk_indices = all_scores.topk(self.num_experts_per_head, dim=-1)
        indices = all_indices.gather(-1, pk_indices)
        weights_down = self.weight_down_embed(indices)
        weights_up = self.weight_up_embed(indices)
        hidden = einsum("b n d, b n h k d -> b n h k", x, weights_down)
        hidden = F.gelu(hidden) * F.softmax(scores, dim=-1)
        return einsum("b n h k, b n h k d -> b n d", hidden, weights_up)


class Attention(nn.Module):
    def __init__(self, dim, dim_head=8, heads=4):
        super().__init__()
        self.heads = heads
        self.scale = dim_head**-0.5
        inner = dim_head * heads
        self.norm = nn.RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, inner * 3, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        sim = einsum("b h i d, b h j d -> b h i j", q * self.scale, k)
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        attn = sim.masked_fill(mask, -torch.finfo(sim.dtype).max).softmax(-1)
        out = einsum("b h i j, b h j d -> b h i d", attn, v)
        return self.to_out(out.transpose(1, 2).reshape(b, n, -1))


class PEERLanguageModel(nn.Module):
    def __init__(self, vocab_size=64, dim=32, num_layers=2):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.layers = nn.ModuleList([nn.ModuleList([Attention(dim), PEER(dim)]) for _ in range(num_layers)])
        self.norm = nn.RMSNorm(dim)
        self.output_layer = nn.Linear(dim, vocab_size, bias=False)

    def forward(self, x):
        x = self.token_embedding(x)
        for attn, peer in self.layers:
            x = attn(x) + x
            x = peer(x) + x
        return self.output_layer(self.norm(x))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return PEERLanguageModel(), torch.randint(0, 64, (2, 12))
