"""Models of mars.c that transformers' GPT-2 cannot compute, for AutoModelForCausalLM with trust_remote_code=True.

    x = wte[tokens] (+ wpe[positions]);  norm of x where norm_embedding
    for each layer:  x = x + attention_output_scale * attention(norm(x));  x = x + mlp(norm(x))
    logits = norm(x) . (lm_head or wte)^T, softly capped where logit_softcap

The keys of config.json are those of the "model" section of mars.c's config files. Norms, rotations and logits are
computed in float32 whatever the type of the weights. There is no dropout. Runs with transformers 4.57 and 5.24."""
import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

# Newer versions of transformers call the key-value cache "cache", older ones "past_key_values".
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


DEFAULTS = {
    "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50304, "bias": False,
    "scale_attn_by_inverse_layer_idx": True, "position": "learned", "rope_base": 10000.0, "norm": "layernorm",
    "norm_gain": True, "norm_eps": 1e-5, "norm_embedding": False, "qk_norm": False, "qk_norm_eps": 1.1920929e-07,
    "activation": "gelu", "tie_embeddings": True, "lm_head_bias": False, "attention_scale": 0.0,
    "attention_output_scale": 1.0, "logit_softcap": 0.0}
WORDS = {"position": ("learned", "rope", "rope-half"), "norm": ("layernorm", "rmsnorm"), "activation": ("gelu", "relu2")}


class MarsGPTConfig(PretrainedConfig):
    model_type = "mars_gpt"
    keys_to_ignore_at_inference = [CACHE]
    attribute_map = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "hidden_size": "n_embd",
                     "max_position_embeddings": "block_size"}

    def __init__(self, **kwargs):
        for key, default in DEFAULTS.items():
            setattr(self, key, kwargs.pop(key, default))
        for key, words in WORDS.items():
            if getattr(self, key) not in words:
                raise ValueError(f"{key} is {getattr(self, key)!r}; expected one of: {', '.join(words)}")
        kwargs["tie_word_embeddings"] = False  # where tie_embeddings, the model has one tensor and uses it twice
        super().__init__(**kwargs)


def rms_norm(x, eps):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class Norm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.is_rms, self.eps, C = config.norm == "rmsnorm", config.norm_eps, config.n_embd
        self.weight = nn.Parameter(torch.ones(C)) if config.norm_gain else None
        self.bias = nn.Parameter(torch.zeros(C)) if config.bias and not self.is_rms else None

    def forward(self, x):
        y = rms_norm(x if self.is_rms else x.float() - x.float().mean(-1, keepdim=True), self.eps)
        if self.weight is not None:
            y = y * self.weight.float()
        if self.bias is not None:
            y = y + self.bias.float()
        return y.to(x.dtype)


class Linear(nn.Module):
    def __init__(self, inputs, outputs, has_bias):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.02)  # transposed, as in transformers' GPT-2
        self.bias = nn.Parameter(torch.zeros(outputs)) if has_bias else None

    def forward(self, x):
        return F.linear(x, self.weight.t(), self.bias)


def rotations(config, positions):
    """cos and sin of the angles of each position (B, T), as (B, 1, T, head size / 2)."""
    size = config.n_embd // config.n_head
    if config.position == "rope":
        frequencies = [config.rope_base ** (-2 * i / size) for i in range(size // 2)]
    else:
        quarter = size // 4
        frequencies = [config.rope_base ** (-k / (quarter - 1)) for k in range(quarter)]
        frequencies += [0.0] * (size // 2 - quarter)
    frequencies = torch.tensor(frequencies, dtype=torch.float64, device=positions.device)
    angles = positions[:, None, :, None].double() * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer = config, layer
        self.scale = config.attention_scale or 1 / math.sqrt(config.n_embd // config.n_head)
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, config.bias)
        self.c_proj = Linear(config.n_embd, config.n_embd, config.bias)

    def forward(self, x, mask, rotation, cache):
        B, T, C = x.shape
        q, k, v = (y.view(B, T, self.config.n_head, -1).transpose(1, 2) for y in self.c_attn(x).chunk(3, -1))
        if self.config.qk_norm:
            q, k = rms_norm(q, self.config.qk_norm_eps), rms_norm(k, self.config.qk_norm_eps)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        q, k = q.to(x.dtype), k.to(x.dtype)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.is_relu2 = config.activation == "relu2"
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, config.bias)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, config.bias)

    def forward(self, x):
        x = self.c_fc(x)
        return self.c_proj(F.relu(x).square() if self.is_relu2 else F.gelu(x, approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.ln_1, self.attn = Norm(config), Attention(config, layer)
        self.ln_2, self.mlp = Norm(config), MLP(config)
        self.attention_output_scale = config.attention_output_scale

    def forward(self, x, mask, rotation, cache):
        x = x + self.attention_output_scale * self.attn(self.ln_1(x), mask, rotation, cache)
        return x + self.mlp(self.ln_2(x))


class MarsGPTForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = MarsGPTConfig
    _no_split_modules = ["Block"]
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        C, V = config.n_embd, config.vocab_size
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(V, C)})
        if config.position == "learned":
            self.transformer["wpe"] = nn.Embedding(config.block_size, C)
        if config.norm_embedding:
            self.transformer["ln_emb"] = Norm(config)
        self.transformer["h"] = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.transformer["ln_f"] = Norm(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(C, V, bias=config.lm_head_bias)
        self.post_init()

    def get_input_embeddings(self):
        return self.transformer["wte"]

    def set_input_embeddings(self, embedding):
        self.transformer["wte"] = embedding

    def logits(self, x):
        z = (F.linear(x, self.transformer["wte"].weight) if self.config.tie_embeddings else self.lm_head(x)).float()
        c = self.config.logit_softcap
        return c * z * torch.rsqrt(z.square() + c * c) if c else z

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, labels=None,
                use_cache=None, cache=None, past_key_values=None, logits_to_keep=0, **kwargs):
        x = self.transformer["wte"](input_ids) if inputs_embeds is None else inputs_embeds
        cache = past_key_values if cache is None else cache
        if cache is None and (getattr(self.config, "use_cache", True) if use_cache is None else use_cache):
            cache = DynamicCache()
        past, T = cache.get_seq_length() if cache is not None else 0, x.shape[1]
        places = torch.arange(past + T, device=x.device)
        mask = (places <= places[past:, None])[None, None]  # (1 or B, 1, T, past + T), true: looks at
        if attention_mask is not None:  # (B, past + T), 0: padding, which looks at itself: its softmax must be defined
            mask = mask & attention_mask[:, None, None, :].bool() | (places == places[past:, None])
        if position_ids is None:
            position_ids = places[None, past:]
        if self.config.position == "learned":
            x = x + self.transformer["wpe"](position_ids)
        rotation = None if self.config.position == "learned" else rotations(self.config, position_ids)
        if self.config.norm_embedding:
            x = self.transformer["ln_emb"](x)
        for block in self.transformer["h"]:
            x = block(x, mask, rotation, cache)
        x = self.transformer["ln_f"](x)
        logits = self.logits(x[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else x[:, logits_to_keep])
        loss = None
        if labels is not None:  # input_ids, where -100 is a token that does not count
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})
