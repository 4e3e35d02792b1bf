"""After annotated Switch transformers: one expert a token, tokens beyond the capacity dropped, counts in the output."""

import copy
import math

import torch
from torch import nn


class FeedForward(nn.Module):
    def __init__(self, d_model, d_ff, dropout=0.1):
        super().__init__()
        self.layer1 = nn.Linear(d_model, d_ff)
        self.layer2 = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)
        self.activation = nn.ReLU()

    def forward(self, x):
        return self.layer2(self.dropout(self.activation(self.layer1(x))))


class SwitchFeedForward(nn.Module):
    def __init__(self, *, capacity_factor, drop_tokens, is_scale_prob, n_experts, expert, d_model):
        super().__init__()
        self.capacity_factor = capacity_factor
        self.is_scale_prob = is_scale_prob
        self.n_experts = n_experts
        self.drop_tokens = drop_tokens
        self.experts = nn.ModuleList([copy.deepcopy(expert) for _ in range(n_experts)])
        for e in self.experts:
            e.layer1.reset_parameters()
            e.layer2.reset_parameters()
        self.switch = nn.Linear(d_model, n_experts)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x):
        seq_len, batch_size, d_model = x.shape
        x = x.reshape(-1, d_model)
        route_prob = self.softmax(self.switch(x))
        route_prob_max, routes = torch.max(route_prob, dim=-1)
        indexes_list = [torch.eq(routes, i).nonzero(as_tuple=True)[0] for i in range(self.n_experts)]
        final_output = x.new_zeros(x.shape)
        capacity = int(self.capacity_factor * len(x) / self.n_experts)
        counts = x.new_tensor([len(indexes_list[i]) for i in range(self.n_experts)])
        dropped = []
        if self.drop_tokens:
            for i in range(self.n_experts):
                if len(indexes_list[i]) <= capacity:
                    continue
                dropped.append(indexes_list[i][capacity:])
                indexes_list[i] = indexes_list[i][:capacity]
        expert_output = [self.experts[i](x[indexes_list[i], :]) for i in range(self.n_experts)]
        for i in range(self.n_experts):
            final_output[indexes_list[i], :] = expert_output[i]
        if dropped:
            dropped = torch.cat(dropped)
            final_output[dropped, :] = x[dropped, :]
        if self.is_scale_prob:
            final_output = final_output * route_prob_max.view(-1, 1)
        else:
            final_output = final_output * (route_prob_max / route_prob_max.detach()).view(-1, 1)
        final_output = final_output.view(seq_len, batch_size, d_model)
        return final_output, counts, route_prob.sum(0), len(dropped), route_prob_max


class PrepareForMultiHeadAttention(nn.Module):
    def __init__(self, d_model, heads, d_k):
        super().__init__()
        self.linear = nn.Linear(d_model, heads * d_k)
        self.heads = heads
        self.d_k = d_k

    def forward(self, x):
        head_shape = x.shape[:-1]
        return self.linear(x).view(*head_shape, self.heads, self.d_k)


class MultiHeadAttention(nn.Module):
    def __init__(self, heads, d_model):
        super().__init__()
        self.d_k = d_model // heads
        self.heads = heads
        self.query = PrepareForMultiHeadAttention(d_model, heads, self.d_k)
        self.key = PrepareForMultiHeadAttention(d_model, heads, self.d_k)
        self.value = PrepareForMultiHeadAttention(d_model, heads, self.d_k)
        self.output = nn.Linear(d_model, d_model)
        self.scale = 1 / math.sqrt(self.d_k)

    def forward(self, x, mask):
        seq_len, batch_size, _ = x.shape
        query, key, value = self.query(x), self.key(x), self.value(x)
        scores = torch.einsum("ibhd,jbhd->ijbh", query, key) * self.scale
        scores = scores.masked_fill(mask[:, :, None, None] == 0, float("-inf"))
        attn = scores.softmax(dim=1)
        x = torch.einsum("ijbh,jbhd->ibhd", attn, value)
        return self.output(x.reshape(seq_len, batch_size, -1))


class SwitchTransformerLayer(nn.Module):
    def __init__(self, d_model, attn, feed_forward):
        super().__init__()
        self.size = d_model
        self.attn = attn
        self.feed_forward = feed_forward
        self.norm_self_attn = nn.LayerNorm([d_model])
        self.norm_ff = nn.LayerNorm([d_model])

    def forward(self, x, mask):
        x = x + self.attn(self.norm_self_attn(x), mask)
        ff, counts, route_prob, n_dropped, route_prob_max = self.feed_forward(self.norm_ff(x))
        return x + ff, counts, route_prob, n_dropped, route_prob_max


class SwitchTransformer(nn.Module):
    def __init__(self, n_vocab=55, d_model=32, n_layers=2):
        super().__init__()
        self.embed = nn.Embedding(n_vocab, d_model)
        self.layers = nn.ModuleList(
            SwitchTransformerLayer(
                d_model,
                MultiHeadAttention(4, d_model),
                SwitchFeedForward(
                    capacity_factor=1.2,
                    drop_tokens=True,
                    is_scale_prob=True,
                    n_experts=4,
                    expert=FeedForward(d_model, 64),
                    d_model=d_model,
                ),
            )
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm([d_model])
        self.generator = nn.Linear(d_model, n_vocab)

    def forward(self, x):
        x = self.embed(x)
        mask = torch.ones(len(x), len(x), device=x.device).tril()
        counts, route_prob, route_prob_max = [], [], []
        for layer in self.layers:
            x, f, p, _, p_max = layer(x, mask=mask)
            counts.append(f)
            route_prob.append(p)
            route_prob_max.append(p_max)
        x = self.generator(self.norm(x))
        return x, torch.stack(counts), torch.stack(route_prob), torch.stack(route_prob_max)


def make():
    """The model and its input, [sequence, batch]."""
    torch.manual_seed(0)
    return SwitchTransformer(), torch.randint(0, 55, (12, 2))
