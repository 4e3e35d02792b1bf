"""After hash layers: a table of random numbers tells which expert a word goes to; no weights choose."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class HashFFN(nn.Module):
    def __init__(self, vocab, dim, hidden, num_experts):
        super().__init__()
        self.num_experts = num_experts
        generator = torch.Generator().manual_seed(17)
        self.register_buffer("hash_bin_map", torch.randint(0, num_experts, (vocab,), generator=generator))
        self.w1 = nn.Parameter(torch.randn(num_experts, dim, hidden) * 0.2)
        self.b1 = nn.Parameter(torch.zeros(num_experts, hidden))
        self.w2 = nn.Parameter(torch.randn(num_experts, hidden, dim) * 0.2)
        self.b2 = nn.Parameter(torch.zeros(num_experts, dim))

    def forward(self, x, orig_input):
        expert = self.hash_bin_map[orig_input]
        w1, w2 = self.w1[expert], self.w2[expert]
        h = torch.einsum("bsd,bsdh->bsh", x, w1) + self.b1[expert]
        return torch.einsum("bsh,bshd->bsd", F.relu(h), w2) + self.b2[expert]


class Layer(nn.Module):
    def __init__(self, vocab, dim, heads, hidden, num_experts):
        super().__init__()
        self.n_heads = heads
        self.dim = dim
        self.q_lin, self.k_lin = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v_lin, self.out_lin = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = HashFFN(vocab, dim, hidden, num_experts)

    def attention(self, x):
        bs, qlen, dim = x.size()
        assert dim == self.dim, f"Dimensions do not match: {dim} input vs {self.dim} configured"
        dim_per_head = dim // self.n_heads

        def shape(t):
            return t.view(bs, -1, self.n_heads, dim_per_head).transpose(1, 2)

        q, k, v = shape(self.q_lin(x)), shape(self.k_lin(x)), shape(self.v_lin(x))
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_lin(context.transpose(1, 2).contiguous().view(bs, -1, self.n_heads * dim_per_head))

    def forward(self, x, orig_input):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.ffn(x, orig_input))


class HashTransformer(nn.Module):
    def __init__(self, vocab=64, dim=32, heads=4, hidden=48, num_experts=4, layers=2):
        super().__init__()
        self.embeddings = nn.Embedding(vocab, dim)
        self.position_embeddings = nn.Embedding(32, dim)
        self.layers = nn.ModuleList(Layer(vocab, dim, heads, hidden, num_experts) for _ in range(layers))

    def forward(self, input):
        positions = torch.arange(input.size(1), device=input.device)
        tensor = self.embeddings(input) + self.position_embeddings(positions)
        for layer in self.layers:
            tensor = layer(tensor, input)
        return F.linear(tensor, self.embeddings.weight)


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return HashTransformer(), torch.randint(0, 64, (2, 12))
