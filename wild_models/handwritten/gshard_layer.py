"""After fairseq's MoE layer (GShard): ``wg``, two choices with capacity, einsum over [tokens, experts, capacity].

Batches are [time, batch, channels] and attention is one ``in_proj`` behind scaled heads.
"""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


def one_hot(indices, num_classes):
    output = torch.zeros(*indices.shape, num_classes, dtype=torch.int64, device=indices.device)
    return output.scatter_(1, indices.unsqueeze(1), 1)


def top2gating(logits, capacity_fraction):
    gates = F.softmax(logits.float(), dim=1).to(logits.dtype)
    num_tokens, num_experts = gates.shape
    capacity = int(math.ceil(capacity_fraction * num_tokens / num_experts))
    indices1 = torch.argmax(gates, dim=1)
    mask1 = one_hot(indices1, num_experts)
    logits_except1 = gates.masked_fill(mask1.bool(), float("-inf"))
    mask2 = one_hot(torch.argmax(logits_except1, dim=1), num_experts)
    gates1_s = (gates * mask1).sum(dim=1)
    gates2_s = (gates * mask2).sum(dim=1)
    locations1 = torch.cumsum(mask1, dim=0) - 1
    locations2 = torch.cumsum(mask2, dim=0) - 1 + torch.sum(mask1, dim=0, keepdim=True)
    me, ce = gates.mean(dim=0), mask1.to(gates.dtype).mean(dim=0)
    l_aux = torch.mean(me * ce) * num_experts * num_experts
    mask1 = mask1 * torch.lt(locations1, capacity)
    mask2 = mask2 * torch.lt(locations2, capacity)
    locations1_s = torch.sum(locations1 * mask1, dim=1)
    locations2_s = torch.sum(locations2 * mask2, dim=1)
    denom_s = torch.clamp(gates1_s + gates2_s, min=torch.finfo(gates.dtype).eps)
    gates1 = (gates1_s / denom_s).unsqueeze(-1) * mask1.to(gates.dtype)
    gates2 = (gates2_s / denom_s).unsqueeze(-1) * mask2.to(gates.dtype)
    locations1_sc = one_hot(locations1_s, capacity).to(gates.dtype)
    locations2_sc = one_hot(locations2_s, capacity).to(gates.dtype)
    combine1_sec = torch.bmm(gates1.unsqueeze(-1), locations1_sc.unsqueeze(1))
    combine2_sec = torch.bmm(gates2.unsqueeze(-1), locations2_sc.unsqueeze(1))
    combine_weights = combine1_sec + combine2_sec
    return l_aux, combine_weights, combine_weights.bool()


class Top2Gate(nn.Module):
    def __init__(self, model_dim, num_experts, capacity_fraction=2.0):
        super().__init__()
        self.wg = nn.Linear(model_dim, num_experts, bias=False)
        self.capacity_fraction = capacity_fraction

    def forward(self, input):
        return top2gating(self.wg(input), self.capacity_fraction)


class FeedForwardNetwork(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.fc1 = nn.Linear(args.decoder_embed_dim, args.decoder_ffn_embed_dim)
        self.fc2 = nn.Linear(args.decoder_ffn_embed_dim, args.decoder_embed_dim)

    def forward(self, x):
        x_shape = x.shape
        x = x.reshape(-1, x.size(-1))
        x = F.relu(self.fc1(x))
        return self.fc2(x).view(x_shape)


class MOELayer(nn.Module):
    def __init__(self, gate, experts):
        super().__init__()
        self.gate = gate
        self.experts = experts
        self.num_local_experts = len(experts)

    def forward(self, *input):
        input = input[0]
        d_model = input.shape[2]
        reshaped_input = input.reshape(-1, d_model)
        l_aux, combine_weights, dispatch_mask = self.gate(reshaped_input)
        dispatch_mask = dispatch_mask.to(input.dtype).permute(1, 2, 0)
        E, C, S = dispatch_mask.size()
        M = reshaped_input.size(1)
        dispatched_input = torch.mm(dispatch_mask.reshape(E * C, S), reshaped_input)
        dispatched_input = dispatched_input.reshape(1, self.num_local_experts, -1, d_model)
        chunks = dispatched_input.chunk(self.num_local_experts, dim=1)
        expert_outputs = [expert(chunk) for chunk, expert in zip(chunks, self.experts, strict=False)]
        expert_output = torch.cat(expert_outputs, dim=1).reshape(E * C, M)
        combined_output = combine_weights.view(S, E * C).mm(expert_output)
        return combined_output.reshape(input.shape), l_aux


class MultiheadAttention(nn.Module):
    def __init__(self, embed_dim, num_heads):
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, query, attn_mask):
        tgt_len, bsz, embed_dim = query.size()
        assert embed_dim == self.embed_dim
        q = self.q_proj(query) * self.scaling
        k, v = self.k_proj(query), self.v_proj(query)
        q = q.contiguous().view(tgt_len, bsz * self.num_heads, self.head_dim).transpose(0, 1)
        k = k.contiguous().view(-1, bsz * self.num_heads, self.head_dim).transpose(0, 1)
        v = v.contiguous().view(-1, bsz * self.num_heads, self.head_dim).transpose(0, 1)
        attn_weights = torch.bmm(q, k.transpose(1, 2)) + attn_mask
        attn = torch.bmm(F.softmax(attn_weights, dim=-1), v)
        attn = attn.transpose(0, 1).contiguous().view(tgt_len, bsz, self.embed_dim)
        return self.out_proj(attn)


class TransformerDecoderLayer(nn.Module):
    def __init__(self, args, is_moe_layer):
        super().__init__()
        self.embed_dim = args.decoder_embed_dim
        self.self_attn = MultiheadAttention(self.embed_dim, args.decoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(self.embed_dim)
        self.is_moe_layer = is_moe_layer
        if is_moe_layer:
            experts = nn.ModuleList([FeedForwardNetwork(args) for _ in range(args.moe_expert_count)])
            self.moe_layer = MOELayer(Top2Gate(self.embed_dim, args.moe_expert_count), experts)
        else:
            self.fc1 = nn.Linear(self.embed_dim, args.decoder_ffn_embed_dim)
            self.fc2 = nn.Linear(args.decoder_ffn_embed_dim, self.embed_dim)
        self.final_layer_norm = nn.LayerNorm(self.embed_dim)

    def forward(self, x, attn_mask):
        x = x + self.self_attn(self.self_attn_layer_norm(x), attn_mask)
        residual = x
        x = self.final_layer_norm(x)
        l_aux = None
        if self.is_moe_layer:
            x, l_aux = self.moe_layer(x)
        else:
            x = self.fc2(F.relu(self.fc1(x)))
        return residual + x, l_aux


class TransformerDecoder(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.args = args
        self.embed_scale = math.sqrt(args.decoder_embed_dim)
        self.embed_tokens = nn.Embedding(args.vocab_size, args.decoder_embed_dim)
        self.layers = nn.ModuleList(
            [TransformerDecoderLayer(args, (i + 1) % args.moe_freq == 0) for i in range(args.decoder_layers)]
        )
        self.layer_norm = nn.LayerNorm(args.decoder_embed_dim)

    def forward(self, prev_output_tokens):
        x = self.embed_scale * self.embed_tokens(prev_output_tokens)
        x = x.transpose(0, 1)
        mask = torch.triu(torch.full((x.size(0), x.size(0)), float("-inf"), dtype=x.dtype, device=x.device), 1)
        l_aux = []
        for layer in self.layers:
            x, l_aux_i = layer(x, mask)
            l_aux.append(l_aux_i)
        x = self.layer_norm(x).transpose(0, 1)
        return F.linear(x, self.embed_tokens.weight), {"l_aux": l_aux}


def make():
    """The model and its input."""
    torch.manual_seed(0)
    args = SimpleNamespace(
        decoder_embed_dim=32,
        decoder_ffn_embed_dim=64,
        decoder_attention_heads=4,
        decoder_layers=2,
        moe_freq=2,
        moe_expert_count=4,
        vocab_size=80,
    )
    return TransformerDecoder(args), torch.randint(0, 80, (2, 12))
