"""What the model writes after a few prompts: once greedily, once drawn, with a fixed seed."""

from __future__ import annotations

from neolm.evaluation.config import EvaluateConfig
from neolm.generation.generate import generate
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer


def samples(model: Decoder, tokenizer: Tokenizer, config: EvaluateConfig) -> list[dict[str, str]]:
    """`{"prompt", "greedy", "sampled"}` for each of `config.prompts`; those longer than the context are left out."""
    context = model.config.max_position_embeddings
    prompts = [prompt for prompt in config.prompts if len(tokenizer.encode(prompt)) <= context]
    greedy = generate(model, tokenizer, prompts, config.sample_tokens)
    sampled = generate(
        model, tokenizer, prompts, config.sample_tokens, temperature=config.temperature, seed=config.seed
    )
    return [
        {"prompt": prompt, "greedy": likeliest, "sampled": drawn}
        for prompt, likeliest, drawn in zip(prompts, greedy, sampled, strict=True)
    ]
