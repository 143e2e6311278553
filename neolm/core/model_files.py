"""The small files of a model directory in Hugging Face's layout, which are read, copied and downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.core.files import read_json

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE = "special_tokens_map.json", "added_tokens.json"
VOCABULARIES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""Files of a BPE without a tokenizer.json; the second pair has OpenAI's names."""
TEMPLATE_FILE, LEGACY_TEMPLATE_FILE = "chat_template.jinja", "chat_template.json"
NAMED_TEMPLATES = "additional_chat_templates/*.jinja"
SENTENCEPIECE_FILE, WORDPIECE_FILE = "spiece.model", "vocab.txt"
OTHER_TOKENIZERS = {
    "tokenizer.model": "a SentencePiece model",
    "sentencepiece.bpe.model": "a SentencePiece model",
}
"""Files of tokenizers that are not read; they are known so that a message can name them."""
SENTENCE_MODULES_FILE, SENTENCE_CONFIG_FILE = "modules.json", "sentence_bert_config.json"
POOLING_FILE, PROMPTS_FILE = "1_Pooling/config.json", "config_sentence_transformers.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
SENTENCE_FILES = (SENTENCE_MODULES_FILE, SENTENCE_CONFIG_FILE, "*_Pooling/config.json", PROMPTS_FILE)
"""Files of sentence-transformers, which say how an encoder turns a text into a vector."""

PREDICTION_FILE = "prediction.json"
"""How a model that was fine-tuned by NeoLM predicts."""
DECISION_FILE = "decision.json"
"""How a model makes decisions: temperatures that were fitted."""

TEMPLATE_FILES = (TEMPLATE_FILE, LEGACY_TEMPLATE_FILE, NAMED_TEMPLATES)
SMALL_FILES = (
    CONFIG_FILE,
    GENERATION_FILE,
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    ADDED_TOKENS_FILE,
    *(name for pair in VOCABULARIES for name in pair),
    SENTENCEPIECE_FILE,
    WORDPIECE_FILE,
    *TEMPLATE_FILES,
    *SENTENCE_FILES,
    PREDICTION_FILE,
    DECISION_FILE,
    *OTHER_TOKENIZERS,
)
"""Names, and patterns of names, that are downloaded from a hub repository besides the weights."""


def template_files(directory: Path) -> Iterator[Path]:
    """The files of `directory` that hold chat templates."""
    for pattern in TEMPLATE_FILES:
        yield from sorted(path for path in directory.glob(pattern) if path.is_file())


def listed_end_tokens(directory: Path) -> tuple[int, ...]:
    """Ids of the tokens that end a generated text, by `generation_config.json`, or by `config.json` if it is missing.

    Raises:
        InputError: a file is broken, or its `eos_token_id` is not an id or a list of ids.
    """
    for path in (directory / GENERATION_FILE, directory / CONFIG_FILE):
        if path.exists():
            return token_ids(read_json(path).get("eos_token_id"), path)
    return ()


def token_ids(value: Any, path: Path) -> tuple[int, ...]:
    """The ids in an `eos_token_id` that was read from `path`: one, several or none."""
    ids = () if value is None else tuple(value) if isinstance(value, list) else (value,)
    if wrong := [one for one in ids if type(one) is not int]:
        raise InputError(f"{path}: eos_token_id: {str(wrong[0])[:40]!r} is not the id of a token")
    return tuple(dict.fromkeys(ids))
