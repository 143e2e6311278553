"""Questions answered by a part of a context, by a model with the head "span" (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from neolm.core.errors import InputError, SettingError
from neolm.generation.generate import check_tokenizer
from neolm.models.encoder import Encoder
from neolm.prediction.prediction_file import PredictionConfig
from neolm.prediction.question_encoder import EncodedQuestion, QuestionEncoder
from neolm.prediction.span_decoding import Answers, SpanDecoder
from neolm.prediction.window_logits import window_logits
from neolm.tokenizer.tokenizer import Tokenizer


class AnswerQuestions:
    """The part of a context that answers a question, over all windows of it. Results do not depend on the batch."""

    inputs: Sequence[str] = ("question", "context")
    columns: Sequence[str] = ("answer", "score", "start", "end", "null_score", "alternatives")

    def __init__(self, model: Encoder, tokenizer: Tokenizer, settings: PredictionConfig, top_k: int = 5) -> None:
        """`top_k` is the number of `alternatives`.

        Raises:
            InputError: another head, the tokenizer of another model, or windows that the model cannot read.
        """
        if model.config.head != "span":
            raise InputError(f"the head '{model.config.head}' cannot answer questions; it does not mark a span")
        if top_k < 1:
            raise SettingError("top_k", f"{top_k} is not at least 1")
        check_tokenizer(model.config, tokenizer)
        self.model, self.settings, self.top_k = model, settings, top_k
        self._encoder = QuestionEncoder(tokenizer, model.config.max_position_embeddings, settings)

    def encode(self, question: str, context: str) -> EncodedQuestion:
        """The question as the model reads it. Raises `InputError` if it or the context is empty, or it is too long."""
        return self._encoder.encode(question, context)

    def answers(self, rows: Sequence[EncodedQuestion]) -> Iterator[Answers]:
        """The best spans of each question, and the score of no answer.

        Raises:
            NonFiniteError: a logit is not finite.
        """
        logits = window_logits(self.model, (row.inputs(n) for row in rows for n in range(len(row.windows))))
        for row in rows:
            decoder = SpanDecoder(row, self.settings.max_answer_tokens, self.top_k)
            for number in range(len(row.windows)):
                begin, end = next(logits).T
                decoder.add(number, begin, end)
            yield decoder.result()

    def predict(self, rows: Sequence[EncodedQuestion]) -> list[dict[str, Any]]:
        """For each question `answer` ("" if there is none), `score`, `start` and `end`, `null_score`, `alternatives`.

        `score` is the probability of the answer, or of no answer. `start` and `end` are characters of the context.
        """
        return [self._result(answers) for answers in self.answers(rows)]

    def _result(self, answers: Answers) -> dict[str, Any]:
        best = answers.best(self.settings.null_threshold)
        return {
            "answer": "" if best is None else best.text,
            "score": answers.null_probability if best is None else best.probability,
            "start": None if best is None else best.start,
            "end": None if best is None else best.end,
            "null_score": answers.null_score,
            "alternatives": [
                {"answer": span.text, "score": span.probability, "start": span.start, "end": span.end}
                for span in answers.spans
            ],
        }

    @staticmethod
    def describe(result: dict[str, Any]) -> str:
        """A result for a terminal: the answer and its place, and a line for each other span.

        Line breaks within an answer become spaces.
        """
        answer = "(no answer)" if result["start"] is None else " ".join(result["answer"].split())
        place = "" if result["start"] is None else f"  {result['start']}-{result['end']}"
        lines = [f"{answer}  {result['score']:.1%}{place}"]
        others = [
            other
            for other in result["alternatives"]
            if other["start"] != result["start"] or other["end"] != result["end"]
        ]
        lines += [
            f"  {other['score']:.1%}  {other['start']}-{other['end']}  {' '.join(other['answer'].split())}"
            for other in others
        ]
        return "\n".join(lines)
