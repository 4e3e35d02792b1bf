"""After tutorials that subclass ``nn.TransformerEncoderLayer``: the feed-forward block is replaced by experts."""

import math

import torch
from torch import nn


class Top2Experts(nn.Module):
    def __init__(self, d_model, dim_feedforward, num_experts, dropout):
        super().__init__()
        self.switch = nn.Linear(d_model, num_experts)
        self.ffns = nn.ModuleList(
            nn.Sequential(
                nn.Linear(d_model, dim_feedforward), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim_feedforward, d_model)
            )
            for _ in range(num_experts)
        )

    def forward(self, x):
        top, index = self.switch(x).topk(2, dim=-1)
        weight = torch.zeros(*x.shape[:-1], len(self.ffns), dtype=x.dtype).scatter_(-1, index, top.softmax(-1))
        return torch.einsum("ste,sted->std", weight, torch.stack([ffn(x) for ffn in self.ffns], dim=2))


class MoEEncoderLayer(nn.TransformerEncoderLayer):
    def __init__(self, d_model, nhead, dim_feedforward=64, num_experts=4, dropout=0.1):
        super().__init__(d_model, nhead, dim_feedforward, dropout)
        del self.linear1, self.linear2, self.dropout
        self.moe = Top2Experts(d_model, dim_feedforward, num_experts, dropout)

    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        x = self.norm1(src + self._sa_block(src, src_mask, src_key_padding_mask, is_causal=is_causal))
        return self.norm2(x + self.dropout2(self.moe(x)))


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, max_len=64):
        super().__init__()
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = torch.zeros(max_len, 1, d_model)
        pe[:, 0, 0::2] = torch.sin(position * div_term)
        pe[:, 0, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)

    def forward(self, x):
        return x + self.pe[: x.size(0)]


class TransformerModel(nn.Module):
    def __init__(self, ntoken=48, d_model=32, nhead=4, nlayers=2):
        super().__init__()
        self.d_model = d_model
        self.embedding = nn.Embedding(ntoken, d_model)
        self.pos_encoder = PositionalEncoding(d_model)
        self.transformer_encoder = nn.TransformerEncoder(
            MoEEncoderLayer(d_model, nhead), nlayers, enable_nested_tensor=False
        )
        self.linear = nn.Linear(d_model, ntoken)

    def forward(self, src):
        src = self.pos_encoder(self.embedding(src) * math.sqrt(self.d_model))
        mask = nn.Transformer.generate_square_subsequent_mask(len(src))
        return self.linear(self.transformer_encoder(src, mask))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return TransformerModel(), torch.randint(0, 48, (9, 2))
