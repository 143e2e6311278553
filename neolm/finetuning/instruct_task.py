"""Instructions and dialogues for a decoder: the loss is that of the assistant's answers, of every turn.

The chat template of the base, or else a default one that is saved with the model, turns a conversation into tokens as
it does in a chat. A conversation that is too long loses its oldest turns, but not the system message; if the last turn
alone is too long, the end of its answer is cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neolm.core.errors import InputError, SettingError
from neolm.core.progress import say, task
from neolm.data.batch import IGNORED
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.conversation_examples import ConversationExample, ConversationExamples
from neolm.finetuning.heads import TextModel, with_head
from neolm.finetuning.open_part import drawn_apart, open_part, part_files
from neolm.finetuning.task import Results
from neolm.generation.model_runner import evaluating
from neolm.metrics.intervals import bootstrap_ratio
from neolm.models.decoder import Decoder
from neolm.models.hf import load_decoder
from neolm.tables.conversations import Conversation, read_conversations
from neolm.tables.questions import Places, counted, reasons
from neolm.tokenizer.chat import Message, OwnTemplate, drop_oldest
from neolm.tokenizer.chat_files import training_template
from neolm.tokenizer.tokenizer import Tokenizer
from neolm.training.objective import CausalLanguageModelling, Objective


class InstructTask:
    """Answers in conversations."""

    objective: Objective = CausalLanguageModelling()
    main = "token_accuracy"

    def __init__(self, config: FinetuneConfig, seed: int) -> None:
        """Read the tables. Raises `InputError` if they cannot be used."""
        self._config = config
        files = part_files(config)
        everything = _read(config, files["train"], "train")
        if "validation" in files:
            self._training, self._validation = everything, _read(config, files["validation"], "validation")
            known = {one.key for one in everything}
            if shared := sum(one.key in known for one in self._validation):
                of = f"{len(self._validation):,} conversations are also in the training part"
                say(f"{config.validation}: {shared:,} of {of}; scores will be too good")
            return
        keys = [one.key for one in everything]
        self._training, self._validation = drawn_apart(everything, keys, "conversations", config, seed)

    def load(self, base: Path, tokenizer: Tokenizer, seed: int) -> TextModel:
        """See `Task`. An answer's last token becomes one that ends a generated text."""
        self._base = base
        loaded = load_decoder(base, "cpu", "float32")
        self._template, self._default = training_template(base, tokenizer)
        if self._default:
            say(f"{base}: it has no chat template; a plain one is saved with the model")
        end = _end_token(self._template, tokenizer)
        config = loaded.config
        if end is None:
            say(f"{base}: its chat template ends answers by no special token: the model may not stop by itself")
        elif end not in (*config.end_tokens, tokenizer.eos_token_id):
            config = config.model_copy(update={"end_token_ids": (*config.end_tokens, end)})
        return with_head(loaded, config, seed)

    def windows(self, tokenizer: Tokenizer, positions: int) -> tuple[ConversationExamples, ConversationExamples]:
        """See `Task`."""
        longest = min(self._config.max_length or positions, positions)
        parts = [
            _encoded(self._template, conversations, longest, f"finetune.{name}")
            for name, conversations in (("train", self._training), ("validation", self._validation))
        ]
        self._measured = parts[1]
        self._template.close()
        return parts[0], parts[1]

    def measure(self, model: Any, tokenizer: Tokenizer) -> Results:
        """See `Task`. The baseline is the base as it is, which reads the same conversations."""
        base = load_decoder(self._base, str(model.device), model.dtype)
        scores, values = {}, None
        for name, one in (("base", base), ("fine-tuned", model)):
            values = _answer_scores(one, self._measured.windows)  # (N, 3)
            tokens, loss, right = values.sum(axis=0)
            mean = loss / tokens
            scores[name] = {"token_accuracy": right / tokens, "loss": mean, "perplexity": math.exp(min(mean, 700.0))}
        assert values is not None
        return {
            "scores": scores,
            "interval": bootstrap_ratio(values[:, 2], values[:, 0]).as_json(),
            "prediction": {"task": "instruct", "prompt": self._config.prompt},
            "template": self._default,
        }


def _read(config: FinetuneConfig, path: Path, key: str) -> Sequence[Conversation]:
    if len(config.label_column) > 1:
        raise SettingError("label_column", "task instruct has one column of answers")
    try:
        table = open_part(config, path)
        found = read_conversations(table, config.text_column, config.label_column[0], config.prompt)
    except InputError as error:
        raise InputError(f"finetune.{key}: {error}") from None
    for line in found.lines():
        say(line)
    if config.prompt and found.form != "columns":
        say(f"finetune.prompt has no effect here, because the rows of {path} are conversations ({found.form})")
    return found.conversations


def _end_token(template: OwnTemplate, tokenizer: Tokenizer) -> int | None:
    """The special token that ends an answer; None if there is none."""
    found = template.encode_answers([Message("user", "Hello"), Message("assistant", "Hello")])
    special = {*tokenizer.special_ids.tolist()}
    ends = [
        token for token, is_answer in zip(found.ids, found.is_answer, strict=True) if is_answer and token in special
    ]
    return ends[-1] if ends else None


def _encoded(
    template: OwnTemplate, conversations: Sequence[Conversation], longest: int, source: str
) -> ConversationExamples:
    """The conversations in at most `longest` tokens; prints how many were cut or left out."""
    found: list[ConversationExample] = []
    left_out: dict[str, Places] = {}
    shorter = dropped = cut = joined = 0
    with task("Encoding", len(conversations), "conversations") as shown:
        for one in conversations:
            shown.advance(1)
            messages = [Message(turn.role, turn.text) for turn in one.turns]  # type: ignore[arg-type]
            try:
                whole = template.encode_answers(messages)
                if len(whole.ids) > longest:
                    kept = drop_oldest(messages, lambda left: len(template.encode_answers(left).ids) <= longest)
                    whole = template.encode_answers(kept)
                    shorter, dropped = shorter + (len(kept) < len(messages)), dropped + len(messages) - len(kept)
            except InputError as error:
                counted(left_out, str(error).removeprefix("messages: "), one.place)
                continue
            ids, answers = whole.ids[:longest], whole.is_answer[:longest]
            if not any(answers[1:]):
                counted(left_out, f"what comes before the answer fills the {longest:,} tokens", one.place)
                continue
            cut += len(whole.ids) > longest
            joined += not whole.consistent
            labels = [token if is_answer else IGNORED for token, is_answer in zip(ids[1:], answers[1:], strict=True)]
            found.append(ConversationExample(ids[:-1], labels, one.place))
    for line in reasons(left_out, "conversation"):
        say(f"{source}: {line}")
    if not found:
        raise InputError(f"{source}: no conversation has an answer that can be learnt")
    _describe(found, source)
    if shorter:
        say(f"{source}: {shorter:,} conversations of more than {longest:,} tokens lose {dropped:,} oldest messages")
    if cut:
        say(f"{source}: {cut:,} answers are cut at their end, because the last turn has more than {longest:,} tokens")
    if joined:
        say(
            f"{source}: in {joined:,} conversations a token joins the end of an answer to the text beside it, so "
            "that a chat reads earlier answers with other tokens than it wrote them"
        )
    return ConversationExamples(found, longest)


def _describe(found: Sequence[ConversationExample], source: str) -> None:
    lengths = sorted(len(one.ids) + 1 for one in found)
    targets = sum(label != IGNORED for one in found for label in one.labels)
    say(
        f"{source}: {len(found):,} conversations, tokens: median {lengths[(len(lengths) - 1) // 2]:,}, 95% at most "
        f"{lengths[math.ceil(0.95 * len(lengths)) - 1]:,}, longest {lengths[-1]:,}; {targets:,} tokens of answers, "
        f"{targets / sum(lengths):.0%} of all"
    )


@torch.no_grad()
def _answer_scores(model: Decoder, conversations: Sequence[ConversationExample]) -> NDArray[np.float64]:
    """For each conversation its answer tokens, their cross-entropy in nats, and how many are the likeliest, (N, 3)."""
    rows = []
    with evaluating(model), task("Measuring", len(conversations), "conversations") as shown:
        for one in conversations:
            labels = torch.tensor(one.labels, device=model.device)
            hidden = model(torch.tensor([one.ids], device=model.device), logits=False)
            assert isinstance(hidden, torch.Tensor)
            learnt = labels != IGNORED
            logits = model.head(hidden[0, learnt]).float()
            loss = torch.nn.functional.cross_entropy(logits, labels[learnt], reduction="sum")
            right = (logits.argmax(dim=1) == labels[learnt]).sum()
            rows.append((len(logits), float(loss), int(right)))
            shown.advance(1)
    return np.array(rows, np.float64)
