"""After mixture-of-depths: a router of one output picks the tokens that a whole block computes on."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class TokenRouter(nn.Module):
    def __init__(self, embed_dim):
        super().__init__()
        self.weight_predictor = nn.Linear(embed_dim, 1)

    def forward(self, x):
        return self.weight_predictor(x).squeeze(-1)


class DecoderBlock(nn.Module):
    def __init__(self, embed_dim, n_heads):
        super().__init__()
        self.n_heads, self.head_dim = n_heads, embed_dim // n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.wq = nn.Linear(embed_dim, n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(embed_dim, n_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(embed_dim, n_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(n_heads * self.head_dim, embed_dim, bias=False)
        self.w1 = nn.Linear(embed_dim, 2 * embed_dim, bias=False)
        self.w2 = nn.Linear(2 * embed_dim, embed_dim, bias=False)
        self.w3 = nn.Linear(embed_dim, 2 * embed_dim, bias=False)

    def forward(self, x):
        bsz, seqlen, _ = x.shape
        h = self.norm_1(x)
        xq = self.wq(h).view(bsz, seqlen, self.n_heads, self.head_dim).transpose(1, 2)
        xk = self.wk(h).view(bsz, seqlen, self.n_heads, self.head_dim).transpose(1, 2)
        xv = self.wv(h).view(bsz, seqlen, self.n_heads, self.head_dim).transpose(1, 2)
        out = F.scaled_dot_product_attention(xq, xk, xv, is_causal=True)
        x = x + self.wo(out.transpose(1, 2).contiguous().view(bsz, seqlen, -1))
        h = self.norm_2(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


class MixtureOfDepths(nn.Module):
    def __init__(self, capacity, block, embed_dim):
        super().__init__()
        self.router = TokenRouter(embed_dim)
        self.block = block
        self.capacity = capacity

    def forward(self, x):
        b, s, d = x.shape
        k = max(1, int(s * self.capacity))
        weights = self.router(x)
        token_weights, selected = torch.topk(weights, k, dim=-1)
        selected, order = torch.sort(selected, dim=-1)
        token_weights = torch.gather(token_weights, -1, order)
        index = selected.unsqueeze(-1).expand(-1, -1, d)
        processed = self.block(torch.gather(x, 1, index)) * token_weights.unsqueeze(-1)
        return x.scatter_add(1, index, processed)


class MoDTransformer(nn.Module):
    def __init__(self, vocab=70, embed_dim=32, n_heads=4, depth=4):
        super().__init__()
        self.embed = nn.Embedding(vocab, embed_dim)
        blocks = []
        for i in range(depth):
            block = DecoderBlock(embed_dim, n_heads)
            blocks.append(MixtureOfDepths(0.5, block, embed_dim) if i % 2 else block)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim)
        self.output = nn.Linear(embed_dim, vocab, bias=False)

    def forward(self, tokens):
        h = self.embed(tokens)
        for block in self.blocks:
            h = block(h)
        return self.output(self.norm(h))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return MoDTransformer(), torch.randint(0, 70, (2, 12))
