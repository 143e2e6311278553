"""Questions about a context as an encoder reads them: `[CLS] question [SEP] part of the context [SEP]`, in windows."""

from __future__ import annotations

from dataclasses import dataclass

from neolm.core.errors import InputError, SettingError
from neolm.prediction.prediction_file import PredictionConfig
from neolm.prediction.text_tokens import TextTokens, Windows, cut_windows, text_tokens
from neolm.tokenizer.tokenizer import Tokenizer

SPECIAL = 3  # [CLS] and two [SEP]
CLS = 0  # its position in a window


@dataclass(frozen=True)
class EncodedQuestion:
    """A question with the windows of its context."""

    tokenizer: Tokenizer
    question: list[int]
    """Token ids."""
    context: TextTokens
    windows: Windows

    @property
    def first(self) -> int:
        """Position of the first token of the context in each window."""
        return len(self.question) + 2

    def inputs(self, number: int) -> tuple[list[int], list[int]]:
        """Token ids and token types of a window."""
        part = self.windows.tokens(number)
        return self.tokenizer.with_special(self.question, self.context.ids[part.start : part.stop])


class QuestionEncoder:
    """Reads questions. A context is read once for questions that follow each other."""

    def __init__(self, tokenizer: Tokenizer, positions: int, settings: PredictionConfig) -> None:
        """`positions` is the longest sequence that the model reads.

        Raises:
            InputError: the tokenizer has no [CLS] or [SEP].
            SettingError: the windows are longer than that, or the stride passes over tokens.
        """
        tokenizer.with_special([])
        self.tokenizer, self.stride = tokenizer, settings.stride
        self.window_tokens = settings.window_tokens or positions
        self.max_question_tokens = settings.max_question_tokens
        self._last: TextTokens | None = None
        if self.window_tokens > positions:
            raise SettingError(
                "window_tokens", f"{self.window_tokens} is more than the {positions} that the model reads"
            )
        room = self.window_tokens - SPECIAL - self.max_question_tokens
        if self.stride is not None and self.stride > room:
            largest = f"the largest stride is {room}" if room > 0 else "lower max_question_tokens"
            raise SettingError(
                "stride",
                f"{self.stride} passes over tokens of the context: beside a question of {self.max_question_tokens}, a "
                f"window of {self.window_tokens} holds {max(room, 0)}; {largest}",
            )

    def encode(self, question: str, context: str) -> EncodedQuestion:
        """The question as the model reads it.

        Raises:
            InputError: question or context is empty or has no tokens, or the question is too long.
        """
        ids = self.question_ids(question)
        if self._last is None or self._last.text != context:
            if not context.strip():
                raise InputError("the context is empty")
            self._last = text_tokens(self.tokenizer, context)
        if not self._last.visible.any():
            raise InputError("the context has no tokens: none of its characters is in the vocabulary")
        room = self.window_tokens - SPECIAL - len(ids)
        return EncodedQuestion(self.tokenizer, ids, self._last, cut_windows(len(self._last.ids), room, self.stride))

    def question_ids(self, question: str) -> list[int]:
        """Token ids of a question. Raises `InputError` if it is empty or too long."""
        if not question.strip():
            raise InputError("the question is empty")
        ids = self.tokenizer.encode(question)
        limit = min(self.max_question_tokens, self.window_tokens - SPECIAL - (self.stride or 1))
        if len(ids) > limit:
            reason = "max_question_tokens" if limit == self.max_question_tokens else "which leave room for the context"
            raise InputError(f"the question has more than {limit:,} tokens, {reason}; shorten it")
        if not ids:
            raise InputError("the question has no tokens: none of its characters is in the vocabulary")
        return ids
