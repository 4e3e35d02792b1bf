"""After Soft MoE: every slot is a mixture of all tokens; a small vision transformer around it."""

import torch
import torch.nn.functional as F
from torch import einsum, nn


def l2norm(t):
    return F.normalize(t, dim=-1)


class SoftMoELayer(nn.Module):
    def __init__(self, dim, num_experts=4, slots_per_expert=2, mult=2):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.slot_norm = nn.LayerNorm(dim)
        self.slot_embeds = nn.Parameter(torch.randn(num_experts, slots_per_expert, dim))
        self.scale = nn.Parameter(torch.ones(1) * 3)
        self.experts = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(dim, dim * mult), nn.GELU(), nn.Linear(dim * mult, dim))
                for _ in range(num_experts)
            ]
        )

    def forward(self, x):
        x = self.norm(x)
        slot_embeds = l2norm(self.slot_norm(self.slot_embeds))
        logits = self.scale * einsum("b n d, e s d -> b n e s", l2norm(x), slot_embeds)
        dispatch_weights = logits.softmax(dim=1)
        b, n, e, s = logits.shape
        combine_weights = logits.reshape(b, n, e * s).softmax(dim=-1)
        slots = einsum("b n d, b n e s -> e b s d", x, dispatch_weights)
        out = torch.stack([expert(slots_of_one) for slots_of_one, expert in zip(slots, self.experts, strict=True)])
        out = out.permute(1, 0, 2, 3).reshape(b, e * s, -1)
        return einsum("b s d, b n s -> b n d", out, combine_weights)


class Encoder(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.heads = heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.moe = SoftMoELayer(dim)

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, C)
        x = x + self.proj(attn)
        return x + self.moe(x)


class SoftMoEViT(nn.Module):
    def __init__(self, image_size=16, patch_size=4, dim=32, depth=2, heads=4, num_classes=7):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch_size, patch_size)
        self.pos_embed = nn.Parameter(torch.randn(1, (image_size // patch_size) ** 2, dim) * 0.1)
        self.blocks = nn.Sequential(*[Encoder(dim, heads) for _ in range(depth)])
        self.head = nn.Linear(dim, num_classes)

    def forward(self, img):
        x = self.patch_embed(img).flatten(2).transpose(1, 2)
        x = self.blocks(x + self.pos_embed)
        return self.head(x.mean(1))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return SoftMoEViT(), torch.randn(2, 3, 16, 16)
