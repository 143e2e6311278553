"""Labels, or a number, for texts or pairs of texts, by a classifier of sequences.

A text that is longer than the model can read is read in windows (`neolm.prediction.text_windows`), whose logits are
averaged. The result names the window that speaks most for the label.

Shapes: W windows of a batch, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neolm.core.errors import InputError, NonFiniteError, SettingError
from neolm.generation.generate import check_tokenizer
from neolm.generation.model_runner import evaluating
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.token_batches import padded, text_inputs, token_batches
from neolm.prediction.prediction_file import PredictionConfig
from neolm.prediction.text_windows import EncodedText, Window, encode_texts
from neolm.tokenizer.tokenizer import Tokenizer

BATCH_TOKENS = 4096
UNREACHED = 1e6  # the logit of a threshold that no probability reaches


class Classify:
    """The label of each text with its probability; the labels, if there are several; or a number."""

    def __init__(
        self, model: Encoder | Decoder, tokenizer: Tokenizer, settings: PredictionConfig, top_k: int = 5
    ) -> None:
        """`top_k` is the number of labels that a terminal shows.

        Raises:
            InputError: the tokenizer is of another model, or settings name labels that the model lacks.
        """
        if top_k < 1:
            raise SettingError("top_k", f"{top_k} is not at least 1")
        self._top_k = top_k
        check_tokenizer(model.config, tokenizer)
        config = model.config
        self.model, self.tokenizer, self.settings, self.names = model, tokenizer, settings, config.label_names
        self.problem = config.problem or ("regression" if config.num_labels == 1 else "single_label_classification")
        self.inputs: Sequence[str] = ("text", "second") if settings.pair else ("text",)
        self.columns: Sequence[str] = ("score",) if self.problem == "regression" else ("label", "probability")
        self.length = min(settings.window_tokens or config.max_position_embeddings, config.max_position_embeddings)
        if unknown := {*settings.thresholds} - {*self.names}:
            raise InputError(f"predict: thresholds: the model has no label {min(unknown)!r}")

    def encode(self, text: str, second: str | None = None) -> EncodedText:
        """The text, or the pair, as the model reads it. Raises `InputError` if a text is empty."""
        if not text.strip() or (second is not None and not second.strip()):
            raise InputError("the text is empty")
        seconds = None if second is None else [second]
        return encode_texts(self.tokenizer, [text], seconds, self.length, self.settings.long_text)[0]

    def predict(self, rows: Sequence[EncodedText]) -> list[dict[str, Any]]:
        """The result of each row.

        Raises:
            NonFiniteError: a logit is not finite.
        """
        return [self.result(logits, row) for logits, row in zip(self._row_logits(rows), rows, strict=True)]

    def scores(self, rows: Sequence[EncodedText]) -> Tensor:
        """Logits (N, K) of the rows, divided by the temperature; a label of several is predicted where its is above 0.

        Of a regression, the numbers.
        """
        means = torch.stack([logits.double().mean(dim=0) for logits in self._row_logits(rows)])  # (N, K)
        if self.problem == "regression":
            return means
        scaled = means / self.settings.temperature
        if self.problem == "multi_label_classification":
            given = [self.settings.thresholds.get(name, 0.5) for name in self.names]
            thresholds = torch.tensor(given, dtype=torch.float64)
            scaled = scaled - thresholds.logit(eps=1e-12).masked_fill(thresholds > 1, UNREACHED)
        return scaled

    def _row_logits(self, rows: Sequence[EncodedText]) -> list[Tensor]:
        """Logits (W, K) of the windows of each row, float32."""
        logits = self.window_logits([window for row in rows for window in row.inputs])
        if not torch.isfinite(logits).all():
            raise NonFiniteError("predict: a logit is not finite; the weights are damaged")
        return list(torch.split(logits, [len(row.windows) for row in rows]))

    @torch.no_grad()
    def window_logits(self, windows: Sequence[Window]) -> Tensor:
        """Logits (W, K) of windows, float32 on the CPU; some may not be finite."""
        logits: Tensor | None = None
        with evaluating(self.model):
            for batch in token_batches([len(ids) for ids, _ in windows], BATCH_TOKENS):
                inputs = padded([windows[number] for number in batch])
                found = self.model(**{name: inputs[name].to(self.model.device) for name in text_inputs(self.model)})
                assert isinstance(found, Tensor)
                logits = torch.empty(len(windows), found.shape[1]) if logits is None else logits
                logits[batch] = found.float().cpu()
        assert logits is not None
        return logits

    def result(self, logits: Tensor, row: EncodedText) -> dict[str, Any]:
        """What the logits (W, K) of the windows of a row mean."""
        mean = logits.double().mean(dim=0)  # (K)
        if self.problem == "regression":
            found: dict[str, Any] = {"score": float(mean[0])}
        else:
            several = self.problem == "multi_label_classification"
            chances = self.chances(mean).tolist()
            found = self._labels(chances) if several else self._label(chances)
            if len(logits) > 1 and not several:
                best = logits - logits.logsumexp(dim=1, keepdim=True)
                found |= {"windows": len(logits), "window": 1 + int(best[:, mean.argmax()].argmax())}
        if row.left_out:
            found["left_out_tokens"] = row.left_out
        return found

    def chances(self, logits: Tensor) -> Tensor:
        """The probabilities (..., K) of the labels by logits (..., K); not for a regression."""
        scaled = logits / self.settings.temperature
        return scaled.sigmoid() if self.problem == "multi_label_classification" else scaled.softmax(dim=-1)

    def _label(self, chances: list[float]) -> dict[str, Any]:
        order = sorted(range(len(chances)), key=lambda number: -chances[number])
        probabilities = {self.names[number]: chances[number] for number in order}
        best = chances[order[0]]
        answers = best >= self.settings.abstain_below
        return {
            "label": self.names[order[0]] if answers else self.settings.abstain_label,
            "probability": best,
            "probabilities": probabilities,
        }

    def _labels(self, chances: list[float]) -> dict[str, Any]:
        probabilities = dict(zip(self.names, chances, strict=True))
        thresholds = self.settings.thresholds
        chosen = [name for name, chance in probabilities.items() if chance >= thresholds.get(name, 0.5)]
        return {"label": chosen, "probability": probabilities}

    def describe(self, result: Mapping[str, Any]) -> str:
        """A result for a terminal."""
        if "score" in result:
            return f"{result['score']:.4f}"
        if isinstance(result["label"], list):
            listed = "  ".join(f"{name} {chance:.1%}" for name, chance in result["probability"].items())
            return f"{', '.join(result['label']) or '(no label)'}\n  {listed}"
        return described_labels(result, self._top_k)


def described_labels(result: Mapping[str, Any], top_k: int) -> str:
    """The label of a result, and the likeliest ones with their probabilities, for a terminal."""
    shown = [*result["probabilities"].items()][:top_k]
    name = "(no answer)" if result["label"] is None else result["label"]
    return f"{name}\n  " + "  ".join(f"{label} {chance:.1%}" for label, chance in shown)
