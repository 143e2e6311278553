"""Entities found in texts by a model with the head "token" (Devlin et al. 2019, section 5.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from neolm.core.errors import InputError
from neolm.generation.generate import check_tokenizer
from neolm.models.encoder import Encoder
from neolm.prediction.prediction_file import PredictionConfig
from neolm.prediction.tag_decoding import TagDecoder, check_labels
from neolm.prediction.text_encoder import EncodedText, TextEncoder
from neolm.prediction.window_logits import window_logits
from neolm.tables.tagged_table import TAGS, WORDS
from neolm.tables.tagged_texts import joined_words
from neolm.tables.words import Place
from neolm.tokenizer.tokenizer import Tokenizer


class FindEntities:
    """The entities of a text with their places, over all windows of it. Results do not depend on the batch."""

    inputs: Sequence[str] = ("text",)
    columns: Sequence[str] = ("entities",)

    def __init__(self, model: Encoder, tokenizer: Tokenizer, settings: PredictionConfig, top_k: int = 5) -> None:
        """`top_k` has no meaning here.

        Raises:
            InputError: another head, labels that are no tags, the tokenizer of another model, or windows that the
                model cannot read.
        """
        if model.config.head != "token":
            raise InputError(f"the head '{model.config.head}' cannot find entities; it does not classify tokens")
        check_labels(model.config.label_names)
        check_tokenizer(model.config, tokenizer)
        self.model = model
        self._encoder = TextEncoder(tokenizer, model.config.max_position_embeddings, settings)

    def encode(self, text: str, words: Sequence[Place] | None = None) -> EncodedText:
        """The text as the model reads it, with given words or its own. Raises `InputError` if it is empty."""
        return self._encoder.encode(text, words)

    def decoders(self, rows: Sequence[EncodedText]) -> Iterator[TagDecoder]:
        """What was computed for each text: `tags()` of its words, and `found()`, its entities.

        Raises:
            NonFiniteError: a logit is not finite.
        """
        logits = window_logits(self.model, (row.inputs(n) for row in rows for n in range(len(row.windows))))
        for row in rows:
            decoder = TagDecoder(row, self.model.config.label_names)
            for number in range(len(row.windows)):
                decoder.add(number, next(logits))
            yield decoder

    def predict(self, rows: Sequence[EncodedText]) -> list[dict[str, Any]]:
        """For each text `entities`, each with `label`, `text`, `start`, `end` (characters) and `score`."""
        return [_result(decoder) for decoder in self.decoders(rows)]

    @staticmethod
    def describe(result: dict[str, Any]) -> str:
        """A result for a terminal: the text, and a line for each entity."""
        lines = [f"  {e['label']}  {e['text']}  {e['start']}-{e['end']}  {e['score']:.1%}" for e in result["entities"]]
        return "\n".join([result["text"], *(lines or ["  (no entities)"])])


class TagWords:
    """The tags of the words of lists, by the predictor of entities."""

    inputs: Sequence[str] = (WORDS,)
    columns: Sequence[str] = (TAGS, "entities")

    def __init__(self, predictor: FindEntities) -> None:
        self._predictor = predictor

    def encode(self, words: Sequence[str]) -> EncodedText:
        """The words with a space between them, as the model reads them. Raises `InputError` if there are none."""
        return self._predictor.encode(*joined_words(words))

    def predict(self, rows: Sequence[EncodedText]) -> list[dict[str, Any]]:
        """For each list `tags` in IOB2, one for each word, and `entities`, with their places in the joined text."""
        return [{TAGS: decoder.tags(), **_result(decoder)} for decoder in self._predictor.decoders(rows)]

    @staticmethod
    def describe(result: dict[str, Any]) -> str:
        """A result for a terminal: the tags."""
        return " ".join(result[TAGS])


def _result(decoder: TagDecoder) -> dict[str, Any]:
    entities = [
        {"label": e.label, "text": e.text, "start": e.start, "end": e.end, "score": e.probability}
        for e in decoder.found()
    ]
    return {"entities": entities}
