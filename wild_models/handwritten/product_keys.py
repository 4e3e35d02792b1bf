"""After product-key memory (PKM): two halves of a query find values of a large table; one layer beside dense ones."""

import torch
import torch.nn.functional as F
from torch import nn


class HashingMemory(nn.Module):
    def __init__(self, input_dim, output_dim, k_dim=16, heads=2, knn=4, n_keys=8):
        super().__init__()
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.n_keys = n_keys
        self.size = n_keys**2
        self.k_dim = k_dim
        self.v_dim = output_dim
        self.heads = heads
        self.knn = knn
        half = k_dim // 2
        self.keys = nn.Parameter(torch.randn(heads * 2 * n_keys, half) * 0.3)
        self.values = nn.EmbeddingBag(self.size, self.v_dim, mode="sum", sparse=False)
        self.query_proj = nn.Sequential(nn.Linear(input_dim, heads * k_dim, bias=True))

    def _get_indices(self, query, subkeys):
        half = self.k_dim // 2
        q1, q2 = query[:, :half], query[:, half:]
        scores1 = F.linear(q1, subkeys[0])
        scores2 = F.linear(q2, subkeys[1])
        scores1, indices1 = scores1.topk(self.knn, dim=1)
        scores2, indices2 = scores2.topk(self.knn, dim=1)
        bs = query.shape[0]
        all_scores = (scores1.view(bs, self.knn, 1) + scores2.view(bs, 1, self.knn)).view(bs, -1)
        all_indices = (indices1.view(bs, self.knn, 1) * self.n_keys + indices2.view(bs, 1, self.knn)).view(bs, -1)
        scores, best = torch.topk(all_scores, k=self.knn, dim=1)
        return scores, all_indices.gather(1, best)

    def get_indices(self, query):
        query = query.view(-1, self.heads, self.k_dim)
        bs = len(query)
        keys = self.keys.view(self.heads, 2, -1, self.k_dim // 2)
        outputs = [self._get_indices(query[:, i], keys[i]) for i in range(self.heads)]
        s = torch.cat([s.view(bs, 1, self.knn) for s, _ in outputs], 1)
        i = torch.cat([i.view(bs, 1, self.knn) for _, i in outputs], 1)
        return s.view(-1, self.knn), i.view(-1, self.knn)

    def forward(self, input):
        prefix_shape = input.shape[:-1]
        bs = input.numel() // input.shape[-1]
        query = self.query_proj(input.contiguous().view(-1, self.input_dim))
        scores, indices = self.get_indices(query)
        scores = F.softmax(scores, dim=-1).view(bs, self.heads * self.knn)
        indices = indices.view(bs, self.heads * self.knn)
        output = self.values(indices, per_sample_weights=scores)
        return output.view(*prefix_shape, self.v_dim)


class TransformerFFN(nn.Module):
    def __init__(self, in_dim, dim_hidden, out_dim):
        super().__init__()
        self.lin1 = nn.Linear(in_dim, dim_hidden)
        self.lin2 = nn.Linear(dim_hidden, out_dim)

    def forward(self, input):
        return self.lin2(F.gelu(self.lin1(input)))


class TransformerModel(nn.Module):
    def __init__(self, n_words=60, dim=32, n_heads=4, n_layers=2):
        super().__init__()
        self.dim, self.n_heads, self.n_layers = dim, n_heads, n_layers
        self.embeddings = nn.Embedding(n_words, dim)
        self.attentions = nn.ModuleList(nn.MultiheadAttention(dim, n_heads, batch_first=True) for _ in range(n_layers))
        self.layer_norm1 = nn.ModuleList(nn.LayerNorm(dim) for _ in range(n_layers))
        self.layer_norm2 = nn.ModuleList(nn.LayerNorm(dim) for _ in range(n_layers))
        self.ffns = nn.ModuleList([TransformerFFN(dim, 64, dim), HashingMemory(dim, dim)])
        self.pred_layer = nn.Linear(dim, n_words)

    def forward(self, x):
        tensor = self.embeddings(x)
        for i in range(self.n_layers):
            normed = self.layer_norm1[i](tensor)
            attn, _ = self.attentions[i](normed, normed, normed, need_weights=False)
            tensor = tensor + attn
            tensor = tensor + self.ffns[i](self.layer_norm2[i](tensor))
        return self.pred_layer(tensor)


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return TransformerModel(), torch.randint(0, 60, (2, 12))
