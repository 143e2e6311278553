"""Settings of the examples of encoders: which tokens are predicted, and how segments are made of documents."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from neolm.core.config import Config, Unit

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class MaskingConfig(Config):
    """Masked language modelling: the tokens to predict, and what stands in their place."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Tokens of a sequence that are predicted, as a share of its length, rounded, and at least one."""
    max_predictions: Annotated[Count | None, Unit("tokens")] = None
    """Most predictions of a sequence; null: the share alone decides. ALBERT's code has 20 by default, BERT's number for
    128 tokens, and keeps it at 512, where 15 percent are 77; so 20 is what to set to repeat that code."""
    mask_share: Share = 0.8
    """Predicted tokens that are replaced by the mask token, as a share."""
    random_share: Share = 0.1
    """Predicted tokens that are replaced by a random token other than the special ones, as a share; the rest is
    kept."""
    whole_words: bool = False
    """Predict all tokens of a word or none; always so if max_ngram is more than 1."""
    max_ngram: Count = 1
    """Longest run of words that is chosen at once: n words with a probability in proportion to 1/n; ALBERT's is 3."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if self.mask_share + self.random_share > 1:
            raise ValueError(f"mask_share {self.mask_share:g} and random_share {self.random_share:g} are more than 1")
        return self

    def predictions(self, length: int) -> int:
        """Most predicted tokens of a sequence of `length` tokens."""
        wanted = max(1, round(length * self.share))
        return min(wanted, self.max_predictions or wanted)


class SegmentsConfig(Config):
    """How sequences are made of the sentences of documents, and the sentence task."""

    task: Literal["none", "nsp", "sop"] = "none"
    """Sentence task. none: a sequence is one segment. nsp (BERT): two segments, the second one from another document in
    half of them. sop (ALBERT): two consecutive segments, swapped in half of them."""
    short_share: Share = 0.1
    """Sequences that are ended at a random length from 2 tokens on, as a share, so that the model knows short texts
    too."""
    one_sentence: Literal["random", "single"] = "random"
    """What becomes of a sequence for which a document has one sentence left, so that it has no pair. random: the second
    segment is from another document, with the label 1, as in the code of BERT and of ALBERT (under sop, label 1 then
    means another document). single: one segment, without a sentence label."""
    duplicates: Annotated[Count | None, Unit("epochs")] = None
    """Epochs that have segments and masks of their own before those of the first are read again (BERT 10, ALBERT 40);
    null: each epoch has its own."""

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        return {"one_sentence": "task is none"} if self.task == "none" else {}
