"""The commands `neolm generate` and `neolm chat`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

from neolm.options import Device, Draft, Dtype, ModelArgument, Offload, Quantize
from neolm.tokenizer.commands import read_text

TopP = Annotated[
    float | None, typer.Option(help="Sample from the likeliest tokens that together have this probability.")
]
_write = functools.partial(print, end="", flush=True)
TEMPERATURE = "0: always the likeliest token; 1: sample with the model's own probabilities."


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue; - reads standard input.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Largest number of tokens to generate.")] = 128,
    temperature: Annotated[float, typer.Option(help=TEMPERATURE)] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k likeliest tokens.")] = None,
    top_p: TopP = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: tokens that occurred before become less likely.")
    ] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; may be given several times.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    ignore_eos: Annotated[bool, typer.Option(help="Continue after an end-of-text token.")] = False,
    draft: Draft = None,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
    offload: Offload = None,
) -> None:
    """Continue a text; it is printed while it is generated."""
    from neolm.generation.config import generation_config
    from neolm.generation.generate import stream

    settings = generation_config(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        stop=stop or [],
        seed=seed,
        ignore_eos=ignore_eos,
    )
    loaded, tokenizer = _load(model, device, dtype, quantize, offload)
    text = read_text(prompt).decode("utf-8", "replace")
    parts = stream(loaded, tokenizer, text, settings, _load_draft(draft, device, tokenizer))
    for part in itertools.chain([text], parts, ["\n"]):
        _write(part)


def chat(
    model: ModelArgument,
    raw: Annotated[bool, typer.Option("--raw", help="Continue what is typed, without a chat template.")] = False,
    temperature: Annotated[float, typer.Option(help=TEMPERATURE)] = 0.8,
    top_p: TopP = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="Largest number of tokens of one answer.")] = 256,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answers.")] = None,
    draft: Draft = None,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
    offload: Offload = None,
) -> None:
    """Chat with a model."""
    from neolm.core.device import MEMORY_SHARE, free_memory
    from neolm.core.progress import say
    from neolm.generation.chat import Session, converse
    from neolm.generation.config import generation_config
    from neolm.generation.kv_cache import fitting_context, kv_cache_dtype
    from neolm.models.hf import model_directory
    from neolm.tokenizer.chat_files import load_chat_template

    settings = generation_config(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    loaded, tokenizer = _load(model, device, dtype, quantize, offload)
    template = load_chat_template(model_directory(model), tokenizer)
    guesser = _load_draft(draft, device, tokenizer)
    memory = MEMORY_SHARE * free_memory(str(loaded.device))
    context, reason = fitting_context(loaded.config, kv_cache_dtype(loaded), memory)
    if reason:
        say(f"chat: {reason}. With more free memory they can be longer")
    session = Session(loaded, tokenizer, settings, raw, guesser, template, context)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - line editing at the prompt, on platforms that have it
    converse(session, input, _write)


def _load(
    model: str, device: str, dtype: str | None = None, quantize: str | None = None, offload: str | None = None
) -> tuple[Any, Any]:
    from neolm.core.device import choose_device
    from neolm.models.hf import load_decoder, model_directory
    from neolm.tokenizer.tokenizer import load_tokenizer

    directory = model_directory(model)
    loaded = load_decoder(directory, choose_device(device).value, dtype, quantize, offload)
    return loaded, load_tokenizer(directory, lossless=True)


def _load_draft(draft: str | None, device: str, tokenizer: Any) -> Any:
    """The draft that `--draft` names: None, "lookup", or a model with the vocabulary of `tokenizer`."""
    if draft is None or draft == "lookup":
        return draft
    from neolm.core.errors import InputError
    from neolm.generation.speculative import check_vocabulary

    if difflib.get_close_matches(draft, ["lookup"], cutoff=0.6) and not Path(draft).exists():
        raise InputError(f"draft: {draft}: no such model directory; did you mean 'lookup'?")
    loaded, own = _load(draft, device)
    check_vocabulary(tokenizer, own)
    return loaded
