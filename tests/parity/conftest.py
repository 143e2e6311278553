"""The oracle: tiny `transformers` models with all parameters random, also biases and norms."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import pytest
import torch
import transformers
from torch import Tensor

CLASSES = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
    "gpt-neo": (transformers.GPTNeoConfig, transformers.GPTNeoForCausalLM),
    "gpt-neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM),
}
CLASSIFIERS = {
    "gpt2": transformers.GPT2ForSequenceClassification,
    "gpt-neo": transformers.GPTNeoForSequenceClassification,
    "gpt-neox": transformers.GPTNeoXForSequenceClassification,
}
TINY: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "gpt-neo": {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "max_position_embeddings": 32,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    },
    "gpt-neox": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
        "rotary_pct": 0.5,
    },
}
ACTIVATIONS = ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh"]


@pytest.fixture(autouse=True)
def quiet_and_few_threads() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products, and the cores are shared
    yield
    torch.set_num_threads(threads)


def build_oracle(family: str, seed: int = 0, classifier: bool = False, **keys: Any) -> Any:
    """A `transformers` model in eval mode with eager attention and realistic random weights."""
    config_class, model_class = CLASSES[family]
    model_class = CLASSIFIERS[family] if classifier else model_class
    fields = {"vocab_size": 61, "bos_token_id": 0, "eos_token_id": 0, **TINY[family], **keys}
    config = config_class(**fields, attn_implementation="eager")
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    width = config.hidden_size
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * noise)
            elif any(table in name for table in ("wte", "wpe", "embed_in", "lm_head", "embed_out")):
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(0.8 * width**-0.5 * noise)
    return model


def draw_keys(family: str, seed: int) -> dict[str, Any]:
    """Random settings of `family`, as keys of its config.json."""
    choose = random.Random(f"{family} {seed}")
    # At least 16 channels: a layer norm over a handful blows up rounding by itself.
    heads, head_size = choose.choice([(1, 16), (2, 8), (2, 10), (2, 16), (3, 6), (3, 16), (4, 4), (4, 8), (4, 16)])
    layers, context, width = choose.choice([1, 2, 3, 4]), choose.choice([17, 32, 48]), heads * head_size
    inner = choose.choice([None, 8, 3 * width + 1])
    shared = {"vocab_size": choose.choice([31, 64, 97]), "tie_word_embeddings": choose.random() < 0.5}
    epsilon, activation = choose.choice([1e-5, 1e-3]), choose.choice(ACTIVATIONS)
    if family == "gpt2":
        return shared | {
            "n_embd": width,
            "n_layer": layers,
            "n_head": heads,
            "n_positions": context,
            "n_inner": inner,
            "activation_function": activation,
            "layer_norm_epsilon": epsilon,
            "scale_attn_weights": choose.random() < 0.7,
            "scale_attn_by_inverse_layer_idx": choose.random() < 0.3,
            "reorder_and_upcast_attn": choose.random() < 0.3,
        }
    if family == "gpt-neo":
        kinds = [choose.choice(["global", "local"]) for _ in range(layers)]
        types = choose.choice([[[kinds, 1]], [[[kind], 1] for kind in kinds], [[["local"], layers]]])
        return shared | {
            "hidden_size": width,
            "num_layers": layers,
            "num_heads": heads,
            "max_position_embeddings": context,
            "intermediate_size": inner,
            "attention_types": types,
            "window_size": choose.choice([1, 2, 3, 4, 7, 8, 16, 64]),
            "activation_function": activation,
            "layer_norm_epsilon": epsilon,
        }
    return shared | {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
        "intermediate_size": inner or 4 * width,
        "rotary_pct": choose.choice([0.25, 0.3, 0.5, 0.8, 1.0]),  # odd numbers of channels too
        "rotary_emb_base": choose.choice([100, 10000, 500000.0]),
        "use_parallel_residual": choose.random() < 0.5,
        "attention_bias": choose.random() < 0.6,
        "hidden_act": activation,
        "layer_norm_eps": epsilon,
    }


def logits_difference(
    ours: Any, theirs: Any, ids: Tensor, attention_mask: Tensor | None = None, masked: bool = True
) -> float:
    """Largest absolute difference of logits at real tokens; `masked` False: our model gets no mask (right padding)."""
    positions, keys = None, {}
    if attention_mask is not None:
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        keys = {"attention_mask": attention_mask, "position_ids": positions}
    with torch.no_grad():
        expected = theirs(ids, **keys, use_cache=False).logits
        got = ours(ids, attention_mask, positions) if masked else ours(ids)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    difference = (got - expected).abs()
    if attention_mask is not None:
        difference = difference[attention_mask.bool()]
    assert torch.isfinite(difference).all()
    return float(difference.max())


@pytest.fixture
def oracle() -> Callable[..., Any]:
    return build_oracle


@pytest.fixture
def random_keys() -> Callable[[str, int], dict[str, Any]]:
    return draw_keys


@pytest.fixture
def difference() -> Callable[..., float]:
    return logits_difference
