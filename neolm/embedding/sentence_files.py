"""How a model directory says that texts become vectors: the files of sentence-transformers (Reimers & Gurevych 2019).

| File | What is read |
| --- | --- |
| `modules.json` | the steps: Transformer, Pooling and perhaps Normalize; any other step is refused |
| `1_Pooling/config.json` (the folder that `modules.json` names) | mean, first token (cls) or maximum |
| `sentence_bert_config.json` | `max_seq_length`, `do_lower_case` |
| `config_sentence_transformers.json` | the prompt that is put in front of every text |

Not supported, and refused by name: several poolings at once, pooling by weights or by the last token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from neolm.core.config import Config, Unit, validate
from neolm.core.errors import InputError
from neolm.core.files import read_json, read_json_value
from neolm.core.model_files import (
    CONFIG_FILE,
    POOLING_FILE,
    PROMPTS_FILE,
    SENTENCE_CONFIG_FILE,
    SENTENCE_MODULES_FILE,
    TOKENIZER_CONFIG_FILE,
)

Pooling = Literal["mean", "cls", "max"]
_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


class SentenceConfig(Config):
    """How the hidden states of a text become one vector."""

    pooling: Pooling = "mean"
    """The mean or the maximum over the text's tokens, special ones included, or the first token."""
    normalize: bool = False
    """Scale vectors to length 1."""
    max_length: Annotated[int, Field(ge=2), Unit("tokens")] | None = None
    """Longest text with its special tokens; null: the positions of the model."""
    lowercase: bool = False
    """Lowercase texts before they are encoded."""
    prompt: str = ""
    """Put in front of every text."""
    assumed: bool = True
    """Whether the directory does not say how to pool, so that the defaults above are used."""


def read_sentence_config(directory: Path) -> SentenceConfig:
    """The settings in the files of `directory`; without such files, the mean, which is not scaled.

    Raises:
        InputError: a file is broken, or describes something that is not supported.
    """
    fields: dict[str, Any] = {}
    pooling = directory / POOLING_FILE
    modules = directory / SENTENCE_MODULES_FILE
    if modules.is_file():
        names = _modules(modules)
        fields["normalize"] = "Normalize" in names
        pooling = directory / names["Pooling"] / CONFIG_FILE
    if modules.is_file() or pooling.is_file():
        fields |= {"pooling": _pooling(pooling), "assumed": False}
    for name in (TOKENIZER_CONFIG_FILE, SENTENCE_CONFIG_FILE):  # the second is the one that counts
        path = directory / name
        raw = read_json(path) if path.is_file() else {}
        length = raw.get("max_seq_length" if name == SENTENCE_CONFIG_FILE else "model_max_length")
        if (
            isinstance(length, int) and not isinstance(length, bool) and length >= 2
        ):  # transformers writes 1e30 for none
            fields["max_length"] = min(length, 2**31)
        if name == SENTENCE_CONFIG_FILE and raw.get("do_lower_case"):
            fields["lowercase"] = True
    fields["prompt"] = _prompt(directory / PROMPTS_FILE)
    return validate(SentenceConfig, fields, {})


def _modules(path: Path) -> dict[str, str]:
    """Folders of the steps by the names of their classes."""
    raw = read_json_value(path)
    steps = raw if isinstance(raw, list) and all(isinstance(step, dict) for step in raw) else []
    folders = {str(step.get("type")).rpartition(".")[2]: str(step.get("path") or "") for step in steps}
    names = list(folders)
    if names[:2] != ["Transformer", "Pooling"] or names[2:] not in ([], ["Normalize"]) or len(steps) != len(names):
        found = ", ".join(names) or "none"
        raise InputError(f"{path}: the steps {found} are not supported; Transformer, Pooling and Normalize are")
    if folders["Transformer"]:
        raise InputError(
            f"{path}: the model is in the folder {folders['Transformer']}; put its files beside {path.name}"
        )
    if Path(folders["Pooling"]).name != folders["Pooling"]:
        raise InputError(f"{path}: '{folders['Pooling'][:80]}' is not the name of a folder")
    return folders


def _pooling(path: Path) -> Pooling:
    raw = read_json(path)
    chosen = [name for name, value in raw.items() if name.startswith("pooling_mode_") and value is True]
    mode = raw.get("pooling_mode")  # later versions name it in one word
    chosen += [f"pooling_mode_{mode}_{'token' if mode == 'cls' else 'tokens'}"] if isinstance(mode, str) else []
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise InputError(f"{path}: {' and '.join(chosen) or 'no pooling'} is not supported; {', '.join(_MODES)} are")
    return _MODES[chosen[0]]


def _prompt(path: Path) -> str:
    raw = read_json(path) if path.is_file() else {}
    name, prompts = raw.get("default_prompt_name"), raw.get("prompts")
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    if not isinstance(prompt, str):
        raise InputError(f"{path}: default_prompt_name is {str(name)[:80]!r}, which is not one of its prompts")
    return prompt
