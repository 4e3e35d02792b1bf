"""After custom code with lists in its configuration: widths by layer, the layers that are sparse, a cache, tied words."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast


class ListedConfig(PretrainedConfig):
    model_type = "listed_settings"

    def __init__(
        self,
        vocab_size=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        widths=(48, 40, 24),
        moe_layers=(1, 2),
        moe=None,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        **kwargs,
    ):
        self.vocab_size, self.n_embd, self.n_layer, self.n_head = vocab_size, n_embd, n_layer, n_head
        self.widths, self.moe_layers = list(widths), list(moe_layers)
        self.moe = moe or {"num_experts": 4, "k": 2, "jitter": 0.01}
        self.max_position_embeddings = max_position_embeddings
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.n_head = layer, config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, cache):
        b, t, d = x.shape
        q, k, v = self.c_attn(x).split(d, dim=2)
        q, k, v = (y.view(b, t, self.n_head, d // self.n_head).transpose(1, 2) for y in (q, k, v))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        mask = torch.ones(t, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - t)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.c_proj(y.transpose(1, 2).reshape(b, t, d))


class MLP(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(dim, width), nn.Linear(width, dim)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class SparseMLP(nn.Module):
    def __init__(self, dim, width, moe):
        super().__init__()
        self.k = moe["k"]
        self.gate = nn.Linear(dim, moe["num_experts"], bias=False)
        self.experts = nn.ModuleDict({f"expert_{e}": MLP(dim, width) for e in range(moe["num_experts"])})

    def forward(self, x):
        b, t, d = x.shape
        x = x.view(-1, d)
        weights, chosen = self.gate(x).float().softmax(-1).topk(self.k, dim=-1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts.values()):
            token, place = torch.where(chosen == e)
            out.index_add_(0, token, expert(x[token]) * weights[token, place, None].to(x.dtype))
        return out.view(b, t, d)


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        width = config.widths[layer]
        sparse = layer in config.moe_layers
        self.mlp = SparseMLP(config.n_embd, width, config.moe) if sparse else MLP(config.n_embd, width)

    def forward(self, x, cache):
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class ListedForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = ListedConfig
    _tied_weights_keys = {"lm_head.weight": "wte.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.n_embd)
        self.h = nn.ModuleList([Block(config, n) for n in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.2)

    def get_input_embeddings(self):
        return self.wte

    def forward(self, input_ids, past_key_values=None, use_cache=None, labels=None, **kwargs):
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        positions = torch.arange(seen, seen + input_ids.shape[1], device=input_ids.device)
        x = self.wte(input_ids) + self.wpe(positions)
        for block in self.h:
            x = block(x, past_key_values)
        return CausalLMOutputWithPast(logits=self.lm_head(self.ln_f(x)), past_key_values=past_key_values)


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return ListedForCausalLM(ListedConfig()), {"input_ids": torch.randint(0, 64, (2, 12))}
