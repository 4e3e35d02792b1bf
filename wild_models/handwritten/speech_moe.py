"""After speech MoE: frames with lengths, a router that also reads a shared embedding, experts in a list."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Subsampling(nn.Module):
    def __init__(self, n_mels, d_model):
        super().__init__()
        self.conv = nn.Conv1d(n_mels, d_model, 3, stride=2, padding=1)

    def forward(self, x, lengths):
        return F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2), torch.div(lengths + 1, 2, rounding_mode="floor")


class ConvModule(nn.Module):
    def __init__(self, channels, kernel_size=5):
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(channels, 2 * channels, 1)
        self.depthwise_conv = nn.Conv1d(
            channels, channels, kernel_size, padding=(kernel_size - 1) // 2, groups=channels
        )
        self.norm = nn.BatchNorm1d(channels)
        self.pointwise_conv2 = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        x = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        return self.pointwise_conv2(F.silu(self.norm(self.depthwise_conv(x)))).transpose(1, 2)


class PositionwiseFeedForward(nn.Module):
    def __init__(self, idim, hidden_units):
        super().__init__()
        self.w_1 = nn.Linear(idim, hidden_units)
        self.w_2 = nn.Linear(hidden_units, idim)

    def forward(self, xs):
        return self.w_2(F.silu(self.w_1(xs)))


class MoEFeedForward(nn.Module):
    def __init__(self, n_expert, n_expert_per_token, idim, embed_dim, hidden_units):
        super().__init__()
        self.gate = nn.Linear(idim + embed_dim, n_expert, bias=False)
        self.experts = nn.ModuleList(PositionwiseFeedForward(idim, hidden_units) for _ in range(n_expert))
        self.n_expert = n_expert
        self.n_expert_per_token = n_expert_per_token

    def forward(self, xs, embed):
        B, L, D = xs.size()
        router = self.gate(torch.cat([xs, embed], dim=-1)).view(-1, self.n_expert)
        xs = xs.reshape(-1, D)
        logits, selected_experts = torch.topk(router, self.n_expert_per_token)
        weights = F.softmax(logits, dim=1).to(xs)
        output = torch.zeros_like(xs)
        for i, expert in enumerate(self.experts):
            batch_idx, nth_expert = torch.where(selected_experts == i)
            output[batch_idx] += weights[batch_idx, nth_expert, None] * expert(xs[batch_idx])
        return output.view(B, L, D)


class EncoderLayer(nn.Module):
    def __init__(self, size, heads, embed_dim):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(size, heads, batch_first=True)
        self.conv_module = ConvModule(size)
        self.feed_forward = MoEFeedForward(4, 2, size, embed_dim, 48)
        self.norm_mha, self.norm_conv, self.norm_ff = nn.LayerNorm(size), nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, x, mask, embed):
        y = self.norm_mha(x)
        x = x + self.self_attn(y, y, y, key_padding_mask=mask, need_weights=False)[0]
        x = x + self.conv_module(self.norm_conv(x)).masked_fill(mask.unsqueeze(-1), 0.0)
        return x + self.feed_forward(self.norm_ff(x), embed)


class SpeechMoE(nn.Module):
    def __init__(self, n_mels=10, d_model=32, heads=4, embed_dim=12, vocab=20, layers=2):
        super().__init__()
        self.embed = Subsampling(n_mels, d_model)
        self.embedding_network = nn.Sequential(nn.Linear(d_model, 24), nn.ReLU(), nn.Linear(24, embed_dim))
        self.encoders = nn.ModuleList(EncoderLayer(d_model, heads, embed_dim) for _ in range(layers))
        self.after_norm = nn.LayerNorm(d_model)
        self.ctc_lo = nn.Linear(d_model, vocab)

    def forward(self, speech, speech_lengths):
        xs, lengths = self.embed(speech, speech_lengths)
        mask = torch.arange(xs.size(1), device=xs.device)[None, :] >= lengths[:, None]
        embed = self.embedding_network(xs)
        for layer in self.encoders:
            xs = layer(xs, mask, embed)
        return F.log_softmax(self.ctc_lo(self.after_norm(xs)), dim=-1), lengths


def make():
    """The model and its inputs."""
    torch.manual_seed(0)
    return SpeechMoE(), {"speech": torch.randn(2, 20, 10), "speech_lengths": torch.tensor([20, 14])}
