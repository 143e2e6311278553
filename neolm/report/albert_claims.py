"""What Lan et al. 2020 (arXiv 1909.11942) found out about ALBERT, as claims about the cells of `reproduce-albert`.

The figures are those of the paper's tables 2 to 8. Where the paper has the average of five tasks after fine-tuning
(SQuAD 1.1 and 2.0, MNLI, SST-2, RACE), the claim here is about the loss of masked tokens in held-out text.
"""

from __future__ import annotations

from dataclasses import dataclass

from neolm.report.claims import Claim, Measure

PARAMETERS = Measure("parameters", "Parameters", decimals=0, ratio=True, exact=True)
MEMORY = Measure("training_bytes", "Memory", ratio=True, exact=True)
SPEED = Measure("speed", "Tokens/s", decimals=0, ratio=True)
LOSS = Measure("masked_loss", "Masked loss", learnt=True)
ACCURACY = Measure("masked_accuracy", "Masked accuracy", percent=True, learnt=True)
NSP = Measure("nsp_accuracy", "NSP accuracy", percent=True, sampled=True)
SOP = Measure("sop_accuracy", "SOP accuracy", percent=True, sampled=True)
EQUAL_TIME = Measure("equal_time_loss", "Masked loss after the same time", learnt=True)

CHANCE = 0.5
BERT, WIDE, WIDE_SHORT = "bert", "albert-wide", "albert-wide-short"

CLAIMS = (
    Claim(
        2, "BERT has many times the parameters of an ALBERT of the same shape", "334M and 18M (large): 18\u00d7",
        PARAMETERS, BERT, "albert",
    ),
    Claim(2, "ALBERT trains faster than BERT of the same shape", "1.7\u00d7 (large)", SPEED, "albert", BERT),
    Claim(
        2, "ALBERT takes less memory than BERT of the same shape", "stated without figure",
        MEMORY, BERT, "albert", turned=True,
    ),
    Claim(
        2, "At the same shape, sharing all parameters costs quality", "82.4 and 85.2 (large)", LOSS, "albert", BERT,
    ),
    Claim(
        2, "A wider ALBERT has fewer parameters than BERT", "xxlarge: about 0.7\u00d7 BERT-large",
        PARAMETERS, BERT, WIDE, turned=True,
    ),
    Claim(2, "The wider ALBERT is slower than BERT", "xxlarge: 0.3\u00d7", SPEED, BERT, WIDE, turned=True),
    Claim(
        2, "After the same number of steps, the wider ALBERT is better than BERT", "88.7 and 85.2",
        LOSS, BERT, WIDE, turned=True,
    ),
    Claim(
        3, "With shared parameters, E = 128 is better than E = 64", "80.1 and 79.0",
        LOSS, "albert", "e128", turned=True,
    ),
    Claim(
        3, "With shared parameters, E = 128 is better than E = H", "80.1 and 79.8", LOSS, "e256", "e128", turned=True,
    ),
    Claim(
        3, "Without sharing, E = H is better than E = 64", "82.3 and 81.3",
        LOSS, "share-none", "share-none-e256", turned=True,
    ),
    Claim(4, "Sharing all parameters costs quality", "80.1 and 81.6", LOSS, "albert", "share-none"),
    Claim(
        4, "Sharing the feed-forward parameters costs more than sharing those of attention", "80.2 and 81.7",
        LOSS, "share-feed-forward", "share-attention",
    ),
    Claim(
        4, "Sharing the attention parameters alone costs nothing: it is even better", "81.7 and 81.6",
        LOSS, "share-none", "share-attention", turned=True,
    ),
    Claim(5, "A model trained on SOP solves SOP above chance", "86.5%", SOP, "albert", CHANCE),
    Claim(5, "A model trained on NSP solves NSP above chance", "90.5%", NSP, "task-nsp", CHANCE),
    Claim(5, "A model trained on SOP solves NSP above chance", "78.9%", NSP, "albert", CHANCE),
    Claim(
        5, "A model trained on NSP is worse at SOP than one trained on SOP", "52.0% and 86.5%",
        SOP, "albert", "task-nsp", turned=True,
    ),
    Claim(
        5, "A model trained on NSP solves NSP better than SOP", "90.5% and 52.0%", NSP, "task-nsp", "task-nsp", SOP,
    ),
    Claim(
        5, "A sentence task costs a little masked accuracy (SOP and none)", "54.0% and 54.9%",
        ACCURACY, "task-none", "albert", turned=True,
    ),
    Claim(
        6, "After the same training time, the wider ALBERT is better than BERT", "88.7 (32 h) and 87.2 (34 h)",
        EQUAL_TIME, BERT, WIDE_SHORT, turned=True,
    ),
    Claim(8, "Training without dropout is better", "90.7 and 90.4", LOSS, "dropout", "albert", turned=True),
)  # fmt: skip


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, and the cells that stand for its rows, each with the paper's model and score."""

    number: int
    title: str
    text: str
    rows: tuple[tuple[str, str, str, str], ...]
    """Cell, its name here, the paper's model and the paper's score."""


TABLES = (
    PaperTable(
        2,
        "BERT and ALBERT",
        "The paper compares BERT-large with ALBERT-large, which has the same shape, and with ALBERT-xxlarge, which is "
        "four times as wide. Here the wider ALBERT is twice as wide, so that it has fewer parameters than BERT too.",
        (
            (BERT, "BERT", "BERT-large, 334M, speed 1.0\u00d7", "85.2"),
            ("albert", "ALBERT, same shape", "ALBERT-large, 18M, 1.7\u00d7", "82.4"),
            (WIDE, "ALBERT, wider", "ALBERT-xxlarge, about 70% of BERT-large, 0.3\u00d7", "88.7"),
        ),
    ),
    PaperTable(
        3,
        "Width of the embedding",
        "ALBERT\u2019s embeddings are E wide, and a matrix maps them to the width H of the layers (here 256).",
        (
            ("albert", "all shared, E = 64", "10M", "79.0"),
            ("e128", "all shared, E = 128", "12M", "80.1"),
            ("e256", "all shared, E = H", "31M", "79.8"),
            ("share-none", "not shared, E = 64", "87M", "81.3"),
            ("share-none-e256", "not shared, E = H", "108M", "82.3"),
        ),
    ),
    PaperTable(
        4,
        "What the layers share",
        "The paper\u2019s figures are for E = 128; the cells here have E = 64.",
        (
            ("albert", "all", "12M", "80.1"),
            ("share-attention", "attention only", "64M", "81.7"),
            ("share-feed-forward", "feed-forward only", "38M", "80.2"),
            ("share-none", "nothing", "89M", "81.6"),
        ),
    ),
    PaperTable(
        5,
        "Sentence tasks, crossed",
        "Each model is asked both tasks. The model without a sentence task has no head that could be asked; the paper "
        "has accuracies of 52.4% and 53.3% for it, which is close to guessing.",
        (
            ("task-none", "none", "54.9% masked, 52.4% NSP, 53.3% SOP", "79.0"),
            ("task-nsp", "NSP", "54.5% masked, 90.5% NSP, 52.0% SOP", "79.2"),
            ("albert", "SOP", "54.0% masked, 78.9% NSP, 86.5% SOP", "80.1"),
        ),
    ),
    PaperTable(
        6,
        "The same training time",
        "The wider ALBERT with fewer steps, and BERT. Both losses are those of the validation at the time after which "
        "the quicker of the two was finished, by the clock of the training steps.",
        (
            (BERT, "BERT", "BERT-large, 400k steps, 34 h", "87.2"),
            (WIDE_SHORT, "ALBERT, wider, fewer steps", "ALBERT-xxlarge, 125k steps, 32 h", "88.7"),
        ),
    ),
    PaperTable(
        8,
        "Dropout",
        "The paper removed dropout from ALBERT-xxlarge after a million steps. Here a model is trained with dropout of "
        "0.1 from the start.",
        (
            ("albert", "without dropout", "ALBERT-xxlarge, without", "90.7"),
            ("dropout", "dropout of 0.1", "ALBERT-xxlarge, with", "90.4"),
        ),
    ),
)
NOT_REPRODUCED = (
    "Table 7, more training data, is not reproduced: it needs the further text of XLNet and RoBERTa. The paper\u2019s "
    "average rises from 80.1 to 80.8 with it."
)
