"""After expert-choice routing: every expert takes its best tokens; weights [experts, ...] used by einsum."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class ExpertChoiceMoE(nn.Module):
    def __init__(self, d_model, d_ff, n_experts, capacity_factor=2.0):
        super().__init__()
        self.n_experts = n_experts
        self.capacity_factor = capacity_factor
        self.w_router = nn.Parameter(torch.randn(d_model, n_experts) * 0.5)
        self.wi = nn.Parameter(torch.randn(n_experts, d_model, d_ff) * 0.2)
        self.wo = nn.Parameter(torch.randn(n_experts, d_ff, d_model) * 0.2)

    def forward(self, x):
        batch, seq, dim = x.shape
        x = x.reshape(batch * seq, dim)
        k = int(len(x) * self.capacity_factor / self.n_experts)
        scores = (x @ self.w_router).softmax(dim=-1)
        gate, index = torch.topk(scores.t(), k, dim=-1)
        onehot = F.one_hot(index, len(x)).to(x.dtype)
        gathered = torch.einsum("ekt,td->ekd", onehot, x)
        h = F.gelu(torch.einsum("ekd,edf->ekf", gathered, self.wi))
        out = torch.einsum("ekf,efd->ekd", h, self.wo)
        out = torch.einsum("ekt,ek,ekd->td", onehot, gate, out)
        return out.view(batch, seq, dim)


class Layer(nn.Module):
    def __init__(self, d_model, n_heads, d_ff, n_experts):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.mixer = nn.MultiheadAttention(d_model, n_heads, batch_first=True, bias=False)
        self.ln2 = nn.LayerNorm(d_model)
        self.moe = ExpertChoiceMoE(d_model, d_ff, n_experts)

    def forward(self, x):
        h = self.ln1(x)
        x = x + self.mixer(h, h, h, need_weights=False)[0]
        return x + self.moe(self.ln2(x))


class Encoder(nn.Module):
    def __init__(self, vocab=80, d_model=32, n_heads=4, d_ff=56, n_experts=4, depth=2):
        super().__init__()
        self.tok = nn.Embedding(vocab, d_model)
        self.layers = nn.Sequential(*(Layer(d_model, n_heads, d_ff, n_experts) for _ in range(depth)))
        self.out = nn.Linear(d_model, vocab)

    def forward(self, ids):
        return self.out(self.layers(self.tok(ids)))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Encoder(), torch.randint(0, 80, (2, 12))
