"""The right one of several options, by a head that gives a number to each (softmax over the options; BERT on SWAG).

An encoder reads `[CLS] context [SEP] option [SEP]` for each option (Devlin et al. 2019, section 4.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neolm.core.errors import InputError, NonFiniteError
from neolm.generation.generate import check_tokenizer
from neolm.generation.model_runner import evaluating
from neolm.models.encoder import Encoder
from neolm.models.token_batches import padded, token_batches
from neolm.prediction.classify import BATCH_TOKENS
from neolm.prediction.prediction_file import PredictionConfig
from neolm.prediction.text_windows import EncodedText, encode_texts
from neolm.tables.choices import Choice, choice_columns, row_choice
from neolm.tables.table import Row, Table
from neolm.tokenizer.tokenizer import Tokenizer

Options = tuple[Sequence[str], Sequence[EncodedText]]
"""The options of a question, and each as the model reads it."""


class Choose:
    """The option of each question with its probability."""

    inputs: Sequence[str] = ("text", "options")
    columns: Sequence[str] = ("label", "choice", "probability")

    def __init__(self, model: Encoder, tokenizer: Tokenizer, settings: PredictionConfig, top_k: int = 5) -> None:
        """Raises `InputError` if the tokenizer is of another model."""
        check_tokenizer(model.config, tokenizer)
        self.model, self.tokenizer, self.settings, self._top_k = model, tokenizer, settings, top_k
        longest = model.config.max_position_embeddings
        self.length = min(settings.window_tokens or longest, longest)

    def reader(
        self, table: Table, text: str | None = None, second: str | None = None
    ) -> tuple[list[str], Callable[[Row], Sequence[Any]]]:
        """The columns that are read of a table, by default those of the settings; and a function from rows to texts."""
        named = self.settings
        found = choice_columns(table, text or named.text_column, named.option_columns, second or named.second_column)

        def texts(row: Row) -> Sequence[Any]:
            one, _ = row_choice(row, found)
            return one.context, one.options, one.before

        return [found.text, *found.options, *([found.second] if found.second else [])], texts

    def encode(self, text: str, options: Sequence[str], before: str = "") -> Options:
        """The options as the model reads them, each with `before` in front of it.

        Raises:
            InputError: one is empty, or there are fewer than two.
        """
        if isinstance(options, str) or len(options) < 2 or not all(map(str.strip, (text, *options))):
            raise InputError("give a text and two or more options, none of them empty")
        read = [before + option for option in options]
        return options, encode_texts(self.tokenizer, [text] * len(options), read, self.length)

    @torch.no_grad()
    def logits(self, rows: Sequence[Options]) -> list[Tensor]:
        """A logit for each option of each row, float32. Raises `NonFiniteError` if one is not finite."""
        inputs = [one.inputs[0] for _, encoded in rows for one in encoded]
        found = torch.empty(len(inputs))
        with evaluating(self.model):
            for batch in token_batches([len(ids) for ids, _ in inputs], BATCH_TOKENS):
                tensors = padded([inputs[number] for number in batch])
                logits = self.model(**{name: tensor.to(self.model.device) for name, tensor in tensors.items()})
                assert isinstance(logits, Tensor)
                found[batch] = logits[:, 0].float().cpu()
        if not torch.isfinite(found).all():
            raise NonFiniteError("predict: a logit is not finite; the weights are damaged")
        return list(torch.split(found, [len(options) for options, _ in rows]))

    def predict(self, rows: Sequence[Options]) -> list[dict[str, Any]]:
        """The result of each row: the option (`label`), its number from 1 (`choice`), and the probabilities of all.

        Both are None below the probability `abstain_below` of the settings.
        """
        results = []
        for logits, (options, encoded) in zip(self.logits(rows), rows, strict=True):
            chances = (logits.double() / self.settings.temperature).softmax(dim=0).tolist()
            best = max(range(len(chances)), key=chances.__getitem__)
            found = {"label": options[best], "choice": best + 1, "probability": chances[best], "probabilities": chances}
            if chances[best] < self.settings.abstain_below:
                found |= {"label": None, "choice": None}
            cut = sum(one.left_out for one in encoded)
            results.append(found | ({"left_out_tokens": cut} if cut else {}))
        return results

    def question_logits(self, choices: Sequence[Choice]) -> NDArray[np.float64]:
        """The logits of each question, (N, K); very low ones for options that a question does not have."""
        rows = [self.encode(one.context, one.options, one.before) for one in choices]
        found = np.full((len(rows), max(len(options) for options, _ in rows)), -1e9)
        for number, logits in enumerate(self.logits(rows)):
            found[number, : len(logits)] = logits.double().numpy()
        return found

    def describe(self, result: dict[str, Any]) -> str:
        """A result for a terminal."""
        shown = "  ".join(f"{number} {chance:.1%}" for number, chance in enumerate(result["probabilities"], start=1))
        return f"{result['label'] or '(no answer)'}\n  {shown}"
