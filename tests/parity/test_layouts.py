"""Model directories in many layouts: NeoLM and transformers read the same tokenizer, template and end tokens from each.

Every directory is written by transformers and tokenizers, or changed as older versions of them wrote it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers.models import BPE

from neolm.exchange import import_directory
from neolm.generation.batch import end_token_ids, generate_ids
from neolm.generation.config import GenerationConfig
from neolm.models.hf import load_model
from neolm.tokenizer.chat import Message
from neolm.tokenizer.chat_files import load_chat_template
from neolm.tokenizer.tokenizer import load_tokenizer, train_tokenizer

ODD_TEXTS = (
    "",
    "The sea, the day",
    "  two spaces\n\n\tand\r\n lines \u00a0",
    "<|endoftext|>a<|user|> b <|end|><|tool|><|padding|>",
    "<|endof text|> <|",
    "cafe\u0301 \u212b \ud55c\u1112\u1161\u11ab 中文 🙂\u200d",
    "\x00\x7f it's I'LL 12345",
)
PROMPT = "the sea"
TEMPLATES = {
    "plain": "{% for m in messages %}<|user|>{{ m.role }}: {{ m.content | trim }}{{ eos_token }}\n{% endfor %}",
    "tools": "{% if tools is not none %}T{% endif %}{% generation %}{{ messages[0].content }}{% endgeneration %}"
    "{{ messages | tojson(separators=(',', ':')) }}{{ bos_token is defined }}{{ pad_token }}"
    "{{ add_generation_prompt }}",
    "space": "{%- set ns = namespace(n=0) -%}\n{%- for m in messages %}\n    {%- set ns.n = ns.n + 1 %}\n"
    "    {{- ns.n ~ m['content'].strip() }}\n  {% if loop.last %}x{% break %}{% endif %}\n{%- endfor %}\n",
}
MESSAGES = [Message("system", " be brief "), Message("user", "What é is\n it?"), Message("assistant", "the sea")]
FAMILIES = {
    "gpt2": transformers.GPT2Config(vocab_size=340, n_positions=48, n_embd=16, n_layer=1, n_head=2),
    "gpt_neo": transformers.GPTNeoConfig(
        vocab_size=340,
        max_position_embeddings=48,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
    ),
    "gpt_neox": transformers.GPTNeoXConfig(
        vocab_size=340,
        max_position_embeddings=48,
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    ),
}
CLASSES = (
    None,
    "CodeGenTokenizer",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "GPTNeoXTokenizer",
    "PreTrainedTokenizerFast",
)


@dataclass(frozen=True)
class Layout:
    """One way to write a model directory."""

    family: str
    tokenizer_class: str | None
    nfc: bool  # tokenizer.json normalises text to NFC
    files: str  # saved by transformers; whole: tokenizer.json; pair: vocab.json and merges.txt
    added: str  # where the added tokens are listed: in tokenizer.json, in added_tokens_decoder, in added_tokens.json
    names: str  # the file that names special tokens, or neither
    eos: str  # the token that is named
    as_object: bool  # special tokens are objects
    add_bos: bool  # transformers puts a token before a text, if it is asked to add special tokens
    template: str | None
    place: str  # of the template
    config_eos: Any  # indices of the tokens that greedy decoding gives; "absent"
    generation_eos: Any  # and in generation_config.json; "no file"


def layouts() -> st.SearchStrategy[Layout]:
    eos = st.sampled_from(["absent", None, 3, [5], [9, 4]])
    return st.builds(
        Layout,
        family=st.sampled_from(sorted(FAMILIES)),
        tokenizer_class=st.sampled_from(CLASSES),
        nfc=st.booleans(),
        files=st.sampled_from(["saved", "whole", "pair"]),
        added=st.sampled_from(["nowhere", "inside", "decoder", "added_tokens"]),
        names=st.sampled_from(["config", "map", "neither"]),
        eos=st.sampled_from(["<|endoftext|>", "<|end|>", "<|missing|>"]),
        as_object=st.booleans(),
        add_bos=st.booleans(),
        template=st.sampled_from([None, *TEMPLATES]),
        place=st.sampled_from(["jinja", "text", "list", "jinja and more", "jinja and text"]),
        config_eos=eos,
        generation_eos=st.just("no file") | eos,
    ).filter(lambda layout: layout.files != "pair" or layout.tokenizer_class != "PreTrainedTokenizerFast")


@cache
def base_tokenizer() -> Any:
    text = "The sea, the day and the water of April; be brief and say what it is, 12345 times over. " * 3
    return train_tokenizer(iter([text]), 300).backend


@cache
def base_model(family: str) -> tuple[Any, list[int]]:
    """A random model, and the tokens that greedy decoding gives."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(20)
    ids = torch.tensor([base_tokenizer().encode(PROMPT).ids])
    output = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    return model, output[0, ids.shape[1] :].tolist()


def write(directory: Path, name: str, value: Any) -> None:
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def write_layout(layout: Layout, directory: Path) -> None:
    model, greedy = base_model(layout.family)
    model.save_pretrained(directory)
    raw = json.loads((directory / "config.json").read_text())
    raw.pop("eos_token_id", None)

    def listed(indices: Any) -> dict[str, Any]:
        if indices == "absent":
            return {}
        tokens = [greedy[index] for index in indices] if isinstance(indices, list) else indices
        return {"eos_token_id": greedy[tokens] if isinstance(tokens, int) else tokens}

    write(directory, "config.json", raw | listed(layout.config_eos))
    if layout.generation_eos == "no file":
        (directory / "generation_config.json").unlink()
    else:
        write(
            directory,
            "generation_config.json",
            {"temperature": 0.5, "do_sample": True, **listed(layout.generation_eos)},
        )
    write_tokenizer(layout, directory)


def pipeline(layout: Layout) -> Any:
    """The tokenizer of the layout without further tokens."""
    backend = tokenizers.Tokenizer.from_str(base_tokenizer().to_str())
    if layout.add_bos and layout.files != "pair":
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            "<|endoftext|> $A", None, [("<|endoftext|>", 0)]
        )
    if layout.nfc:
        backend.normalizer = tokenizers.normalizers.NFC()
    return backend


def write_tokenizer(layout: Layout, directory: Path) -> None:
    backend = pipeline(layout)
    added = [
        AddedToken("<|user|>", special=True),
        AddedToken("<|end|>", special=True),
        AddedToken("<|tool|>", normalized=True),
    ]
    if layout.added == "inside":
        backend.add_tokens(added)
    if layout.files == "saved":
        backend.add_tokens(added)
        write_saved(layout, backend, directory)
        return
    numbers = {token.content: 300 + index for index, token in enumerate(added)}
    config: dict[str, Any] = {"add_bos_token": layout.add_bos}
    if layout.tokenizer_class:
        config["tokenizer_class"] = layout.tokenizer_class
    if layout.files == "whole":
        backend.save(str(directory / "tokenizer.json"))
    else:
        assert isinstance(backend.model, BPE)
        backend.model.save(str(directory))
    if layout.added == "decoder":
        flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        tokens = {numbers[token.content]: token for token in added} | {0: AddedToken("<|endoftext|>", special=True)}
        config["added_tokens_decoder"] = {
            str(number): {flag: getattr(token, flag) for flag in flags} for number, token in tokens.items()
        }
    if layout.added == "added_tokens":
        write(directory, "added_tokens.json", numbers)
    named = names_of(layout)
    entries: dict[str, Any] = dict(named)
    if layout.as_object:
        kind = {"__type": "AddedToken"} if layout.names == "config" else {}
        flags_off = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
        entries = {name: {**kind, "content": token, **flags_off} for name, token in named.items()}
    if layout.names == "config":
        config |= entries
    elif layout.names == "map":
        write(directory, "special_tokens_map.json", entries | {"additional_special_tokens": ["<|end|>"]})
    if layout.template:
        config |= write_template(layout.place, TEMPLATES[layout.template], directory)
    write(directory, "tokenizer_config.json", config)


def names_of(layout: Layout) -> dict[str, str]:
    return {"eos_token": layout.eos, "bos_token": "<|endoftext|>", "pad_token": "<|user|>"}


def write_saved(layout: Layout, backend: Any, directory: Path) -> None:
    """Write the files as `save_pretrained` does, but with the class of the layout."""
    saved = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names_of(layout))
    if layout.template:
        saved.chat_template = TEMPLATES[layout.template]
    saved.save_pretrained(directory, save_jinja_files=layout.place.startswith("jinja"))
    config = json.loads((directory / "tokenizer_config.json").read_text())
    if layout.tokenizer_class:
        config["tokenizer_class"] = layout.tokenizer_class
    write(directory, "tokenizer_config.json", config)


def write_template(place: str, source: str, directory: Path) -> dict[str, Any]:
    """Write a template; returns what belongs into tokenizer_config.json."""
    if place.startswith("jinja"):
        write(directory, "chat_template.jinja", source)
    if place == "jinja and more":
        write(directory, "additional_chat_templates/rag.jinja", "r")
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": source}]
    inside = {"jinja and text": "another", "text": source, "list": several}
    return {"chat_template": inside[place]} if place in inside else {}


@dataclass(frozen=True)
class Facts:
    """What a directory says, as one of the libraries reads it."""

    size: int
    eos: int
    ids: list[list[int]]
    plain_ids: list[list[int]]
    added_ids: list[list[int]]  # as transformers encodes by default, with the tokens around a text
    rendered: str | None
    ends: frozenset[int]
    greedy: list[int]


def read_by_transformers(directory: Path) -> Facts:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    backend = tokenizer.backend_tokenizer
    ids = [backend.encode(text, add_special_tokens=False).ids for text in ODD_TEXTS]
    added_ids = [backend.encode(text).ids for text in ODD_TEXTS]
    backend.encode_special_tokens = True
    plain_ids = [backend.encode(text, add_special_tokens=False).ids for text in ODD_TEXTS]
    messages = [{"role": message.role, "content": message.text} for message in MESSAGES]
    rendered = None
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    listed = model.generation_config.eos_token_id
    listed = listed if isinstance(listed, list) else [] if listed is None else [listed]
    eos = tokenizer.eos_token_id
    if eos is None:  # NeoLM takes the first special token that the model lists, else <|endoftext|>
        special = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
        eos = next((token for token in listed if token in special), 0)
    ends = frozenset([*listed, eos])
    prompt = torch.tensor([base_tokenizer().encode(PROMPT).ids])
    output = model.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=sorted(ends), pad_token_id=0)
    written = output[0, prompt.shape[1] :].tolist()
    greedy = written[:-1] if written[-1] in ends else written
    return Facts(len(tokenizer), eos, ids, plain_ids, added_ids, rendered, ends, greedy)


def read_by_neolm(directory: Path) -> Facts:
    tokenizer, model = load_tokenizer(directory), load_model(directory, device="cpu")
    template = load_chat_template(directory, tokenizer)
    rendered = None
    if template.kind == "own":
        rendered = "".join(text for text, _ in template.render(MESSAGES))
    template.close()
    ends = end_token_ids(model, tokenizer.eos_token_id)
    tokenizer.backend.encode_special_tokens = False
    added_ids = [tokenizer.backend.encode(text).ids for text in ODD_TEXTS]
    prompt = base_tokenizer().encode(PROMPT).ids
    [greedy] = generate_ids(model, [prompt], GenerationConfig(max_new_tokens=12), tokenizer.eos_token_id)
    return Facts(
        tokenizer.size,
        tokenizer.eos_token_id,
        [tokenizer.encode(text, special=True) for text in ODD_TEXTS],
        [tokenizer.encode(text) for text in ODD_TEXTS],
        added_ids,
        rendered,
        ends,
        greedy,
    )


def agree(ours: Facts, theirs: Facts) -> None:
    assert ours.size == theirs.size
    assert ours.eos == theirs.eos
    assert ours.ids == theirs.ids
    assert ours.plain_ids == theirs.plain_ids
    assert ours.added_ids == theirs.added_ids
    assert ours.rendered == theirs.rendered
    assert ours.ends == theirs.ends
    assert ours.greedy == theirs.greedy


def check(layout: Layout) -> None:
    note(repr(layout))
    with TemporaryDirectory() as folder:
        source, copy = Path(folder) / "source", Path(folder) / "copy"
        write_layout(layout, source)
        theirs, ours = read_by_transformers(source), read_by_neolm(source)
        agree(ours, theirs)
        import_directory(str(source), copy, None)
        agree(ours, read_by_transformers(copy))
        again = read_by_neolm(copy)
        assert again == ours
        listed = {
            "config.json": layout.config_eos == "absent",
            "generation_config.json": layout.generation_eos == "no file",
        }
        for name in (name for name, missing in listed.items() if not missing):
            before, after = (json.loads((place / name).read_text()) for place in (source, copy))
            assert after.get("eos_token_id") == before.get("eos_token_id")


every_layout = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=not os.environ.get("CI_RANDOM"),
)


@settings(every_layout, max_examples=100)
@given(layout=layouts())
def test_every_layout_is_read_as_transformers_reads_it(layout: Layout) -> None:
    check(layout)


@pytest.mark.slow
@settings(every_layout, max_examples=1000, derandomize=False)
@given(layout=layouts())
def test_many_layouts_are_read_as_transformers_reads_them(layout: Layout) -> None:
    check(layout)
