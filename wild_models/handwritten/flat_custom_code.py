"""After custom code on a hub whose experts lie side by side in two linear layers, counted by the configuration."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class FlatConfig(PretrainedConfig):
    model_type = "flat_moe"

    def __init__(
        self, vocab_size=64, hidden_size=32, num_hidden_layers=2, expert_dim=12, num_experts=4, n_active=2, **kwargs
    ):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.expert_dim, self.num_experts, self.n_active = expert_dim, num_experts, n_active
        super().__init__(**kwargs)


class FlatMoE(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.count, self.k = config.num_experts, config.n_active
        self.choose = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.fc_in = nn.Linear(config.hidden_size, config.num_experts * config.expert_dim)
        self.fc_out = nn.Linear(config.num_experts * config.expert_dim, config.hidden_size)

    def forward(self, x):
        scores = self.choose(x).softmax(-1)
        top, index = scores.topk(self.k, dim=-1)
        kept = torch.zeros_like(scores).scatter(-1, index, top)
        hidden = F.gelu(self.fc_in(x)).unflatten(-1, (self.count, -1)) * kept.unsqueeze(-1)
        return self.fc_out(hidden.flatten(-2))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size)
        self.moe = FlatMoE(config)
        self.mix = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x):
        x = x + torch.cumsum(self.mix(x), 1) / 10
        return x + self.moe(self.norm(x))


class FlatForCausalLM(PreTrainedModel):
    config_class = FlatConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)

    def forward(self, input_ids, **kwargs):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return CausalLMOutput(logits=self.lm_head(self.norm(x)))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return FlatForCausalLM(FlatConfig()), {"input_ids": torch.randint(0, 64, (2, 12))}
