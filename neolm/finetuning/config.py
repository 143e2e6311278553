"""The `finetune` section of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from neolm.core.config import Alias, Config, Supersedes, Unit
from neolm.core.errors import SettingError
from neolm.core.progress import say
from neolm.models.encoder_config import Pooling
from neolm.tables.benchmarks import BENCHMARKS
from neolm.training.config import Count, TrainConfig

Task = Literal[
    "classification", "pair", "regression", "span", "tokens", "instruct", "choice", "glue/cola", "glue/sst2",
    "glue/mrpc", "glue/stsb", "glue/qnli", "glue/rte", "glue/wnli", "superglue/boolq", "superglue/cb", "superglue/copa",
    "superglue/multirc", "superglue/rte", "superglue/wic",
]  # fmt: skip
TEXT_TASKS = ("classification", "pair", "regression")
"""Tasks of texts that have labels, which a linear model on one vector of a text can do too."""
Share = Annotated[float, Field(gt=0, lt=1)]

ABSTENTION = ("abstain_error", "out_of_scope_label")
TEXT_ONLY = (
    *("group_column", "seeds", "long_text", "class_weights", "focal_gamma", "label_smoothing", "tfidf"),
    *("threshold_precision", "out_of_scope_label", "cache_frozen", "search", "reinitialised_layers"),
)
USED_BY_PROBES = ("device", "precision")
TRAINING_ONLY = (
    *(name for name in TrainConfig.model_fields if name not in USED_BY_PROBES),
    *("seeds", "search", "epochs", "warmup_share", "focal_gamma", "label_smoothing"),
)
"""Settings that a probe does not read."""
READ_TABLES = ("text_column", "label_column", "header", "delimiter", "encoding")
TABLE_TASKS = (*TEXT_TASKS, "instruct", "choice")
READ_BY = {
    **dict.fromkeys(READ_TABLES, TABLE_TASKS),
    **dict.fromkeys(("second_column", "pooling"), (*TEXT_TASKS, "choice")),
    "option_columns": ("choice",),
    "abstain_error": ("classification", "pair", "choice"),
    "stride": ("span", "tokens"),
    **dict.fromkeys(("max_question_tokens", "max_answer_tokens", "null_windows"), ("span",)),
    "word_labels": ("tokens",),
    "prompt": ("instruct",),
}
"""Settings that only some tasks read."""
SMALL_STEPS = 1000
"""Steps that a small set of examples is trained for, as Mosbach et al. 2021 advise; at most `MAX_EPOCHS`."""
MIN_EPOCHS, MAX_EPOCHS = 3.0, 20.0


class LoraConfig(Config):
    """Low-rank matrices that are trained beside frozen ones."""

    rank: Count = 8
    """Rows of the first matrix."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """What the matrices add is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of what the matrices read."""
    targets: Annotated[
        tuple[Literal["qkv", "query", "key", "value", "output", "expand", "contract"], ...], Field(min_length=1)
    ] = ("qkv", "output", "expand", "contract")
    """Layers of a block that get them: the projections of attention, all or one by one, its output, and the two layers
    of the MLP."""


class SearchConfig(Config):
    """Values that are tried, in every combination. BERT was fine-tuned with learning rates of 5e-5, 3e-5 and 2e-5,
    batches of 16 and 32, and 2, 3 and 4 epochs (Devlin et al. 2019, appendix A.3).
    """

    learning_rate: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Peak learning rates."""
    batch_size: Annotated[tuple[Count, ...], Unit("sequences")] = ()
    """Examples of one optimiser step."""
    epochs: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Unit("epochs")] = ()
    """Passes over the training examples."""


class TableConfig(Config):
    """One of several tables that are trained on together, with its own columns and labels."""

    path: Annotated[str, Field(min_length=1)]
    """The file, from the folder `train` on; `.gz`, `.zst`, `.xz` or `.bz2` may follow its name."""
    text_column: str = "text"
    """Column of the text."""
    label_column: str = "label"
    """Column of the label."""
    group_column: str | None = None
    """Column of the group of an example."""
    header: bool | None = None
    delimiter: str | None = None
    encoding: str | None = None
    """These three are as in the section `finetune`."""
    labels: Annotated[Mapping[str, str | None], Field(min_length=1)] | None = None
    """The label that is trained on for each label of the table; null as a label: its examples are left out; null as a
    whole: the labels stay as they are."""


class FinetuneConfig(TrainConfig):
    """`TrainConfig` with the task, its tables, the baselines, and the choice of what is trained."""

    task: Task
    """classification: a text has one label, or several at once; pair: two texts have one label; regression: a text or a
    pair has a number; span: a question is answered by a part of a context; tokens: words have tags, which mark
    entities; instruct: a decoder answers in conversations; choice: one of several options is right. glue/... and
    superglue/...: that task, with its official files in the folder `train`."""
    train: Annotated[str, Field(min_length=1)]
    """Table of training examples: .csv, .tsv, .jsonl (also .gz or .zst) or .parquet. span: also SQuAD's .json; tokens:
    .jsonl, .parquet, or a file with a word and its tag on each line; instruct: also a JSON list. With `tables`: the
    folder in which they are."""
    tables: tuple[TableConfig, ...] = ()
    """classification: tables that are trained on together, each with path, text_column, label_column, group_column,
    header, delimiter, encoding and labels, a mapping from its labels to those that are trained on."""
    validation: str | None = None
    """Table of validation examples; null: a part of the training examples, drawn by label and group."""
    validation_share: Share = 0.1
    """Share of the training examples that is drawn if no validation table is given."""
    text_column: str = "text"
    """Column of the text: its name, or its number in a file without a header. instruct: column of what is given, or of
    lists of messages."""
    second_column: str | None = None
    """Column of the second text of a pair. choice: text in front of each option, such as the question about a text."""
    option_columns: tuple[str, ...] = ()
    """choice: columns of the options, or one with lists of them; none: those that are called as usual."""
    label_column: Annotated[tuple[str, ...], Field(min_length=1)] = ("label",)
    """Column of the label. Several columns, each 0 or 1, are several labels at once. instruct, choice: column of
    the answer."""
    prompt: str = ""
    """instruct: text that is put before what is given, such as "Summarise: ", in tables of two columns."""
    group_column: str | None = None
    """Column of the group of an example, such as a patient or an author; a group is never divided between training and
    validation."""
    header: bool | None = None
    """Whether a .csv or .tsv begins with the names of its columns; null: guessed, and printed."""
    delimiter: str | None = None
    """Character between the cells of a .csv or .tsv; null: guessed, and printed."""
    encoding: str | None = None
    """Encoding of a text file; null: detected, and printed."""

    pooling: Pooling = "mean"
    """What an encoder's head reads: the mean of the hidden states, or the first token through the pooler, as
    published models do; transformers can load the latter."""
    stride: Annotated[int | None, Field(gt=0), Unit("tokens")] = None
    """span, tokens: tokens of a long text from the start of a window to that of the next; null: half of a window."""
    max_question_tokens: Annotated[Count, Unit("tokens")] = 64
    """span: longest question; a longer one is left out and counted."""
    max_answer_tokens: Annotated[Count, Unit("tokens")] = 30
    """span: longest answer that is given."""
    null_windows: Annotated[int | None, Field(ge=0), Unit("windows")] = None
    """span: windows without the answer that are trained on, of each question; null: all."""
    word_labels: Literal["first", "all"] = "first"
    """tokens: the tokens of a word that carry its tag."""
    method: Literal["full", "lora", "probe"] = "full"
    """full: train all weights, from the head of the probe; lora: small matrices beside frozen ones (Hu et al. 2021),
    and the head; probe: only a logistic regression on frozen features."""
    lora: LoraConfig = LoraConfig()
    """The matrices of method lora."""
    seeds: Count = 1
    """Number of trainings, with consecutive seeds from the recipe's on; the one with the best validation becomes the
    model, and the spread is printed."""
    search: SearchConfig = SearchConfig()
    """Train with each combination of these values and the first seed, and keep the best by validation."""
    frozen_layers: Annotated[int | None, Field(ge=0), Unit("layers")] = None
    """Method full: the embeddings and this many of the lowest layers keep their weights; 0: only the embeddings; null:
    all are trained."""
    reinitialised_layers: Annotated[int, Field(ge=0), Unit("layers")] = 0
    """Method full: so many of the highest layers, with pooler and head, are drawn anew before the training (Zhang et
    al. 2021). The head does not start as that of the probe then."""
    cache_frozen: bool = True
    """Compute the hidden states after the frozen layers of an encoder once, without dropout, and keep them on disk
    until the end of the run, instead of computing them in each epoch."""
    epochs: Annotated[float | None, Field(gt=0), Unit("epochs"), Supersedes(("steps",))] = None
    """Passes over the training examples; null with no steps: 3, or up to 20 for few examples, to reach 1,000 steps."""
    max_length: Annotated[int | None, Field(ge=8), Unit("tokens")] = None
    """Longest text with its special tokens; null: what the model can read."""
    long_text: Literal["windows", "truncate"] = "windows"
    """A text of more tokens is read in overlapping windows, whose logits are averaged; or cut at its end. Pairs are
    always cut, the longer text first. How many texts that are is printed."""
    class_weights: Literal["none", "balanced", "resample"] = "none"
    """Weights of the labels; balanced: in the loss, inversely proportional to their numbers of examples; resample: an
    epoch has the examples of each label as often as it takes to make the labels about equally frequent."""
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Exponent of the focal loss (Lin et al. 2017), which gives less weight to examples that are right; 0: none."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all labels."""
    patience: Count | None = 3
    """Stop after this many validations in a row that are no better than the best one; null: never."""
    tfidf: bool = True
    """Train a linear model on TF-IDF features too, to compare with; needs the extra [finetune]."""
    threshold_precision: Share | None = None
    """Several labels: thresholds with this precision on the validation examples; null: those with the best F1."""
    abstain_error: Share | None = None
    """One label, choice: give no answer where the probability is below the one that keeps this error rate on the
    validation examples; null: always answer."""
    out_of_scope_label: str | None = None
    """One label: the label of examples that belong to none of the others. They are not trained on: they say below which
    probability this label is given."""

    batch_size: Annotated[Count, Unit("sequences")] = 32
    """Examples of one optimiser step, over all devices."""
    learning_rate: Annotated[float, Field(gt=0), Alias("lr")] = 3e-5
    """Peak learning rate, reached after the warm-up."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Final learning rate as a share of the peak."""
    schedule: Literal["constant", "linear", "cosine", "warmup-stable-decay"] = "linear"
    """Learning rate after the warm-up: constant, linear or cosine decay, or constant with a linear decay at the end
    (warmup-stable-decay)."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps over which the learning rate rises linearly, unless warmup_steps is given."""
    warmup_steps: Annotated[int, Field(ge=0), Unit("steps")] = 0
    """Steps over which the learning rate rises linearly; 0: see warmup_share."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay, multiplied by the learning rate."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the mean of squared gradients, of AdamW and LAMB."""
    validate_every: Annotated[Count | None, Unit("steps")] = None  # type: ignore[assignment]
    """Steps between validations, and one more at the end; null: one an epoch, and at least ten in all."""

    @property
    def benchmark(self) -> str | None:
        """The task of GLUE or SuperGLUE whose official files are in the folder `train`; None: it is another task."""
        return self.task if self.task in BENCHMARKS else None

    @property
    def kind(self) -> str:
        """The task, or what a benchmark is: classification, pair, regression or choice."""
        return BENCHMARKS[self.task].task if self.task in BENCHMARKS else self.task

    @property
    def second(self) -> str | None:
        """Column of the second text."""
        if self.task in BENCHMARKS:
            return "second" if BENCHMARKS[self.task].pair else None
        return self.second_column

    def of_table(self, table: TableConfig) -> FinetuneConfig:
        """The settings with the columns of one of `tables`."""
        columns = {name: getattr(table, name) for name in (*READ_TABLES, "group_column")}
        return self.model_copy(update={**columns, "label_column": (table.label_column,), "second_column": None})

    @model_validator(mode="after")
    def _consistent_task(self) -> Self:
        if self.tables and (self.task != "classification" or len(self.label_column) > 1):
            raise ValueError("tables: several tables are for task classification with one label of a text")
        if self.task == "pair" and self.second_column is None:
            raise ValueError("second_column must be given for task pair")
        if self.kind not in TEXT_TASKS and self.method == "probe":
            raise ValueError(f"method: a probe reads one vector of a text, which is not enough for task {self.kind}")
        if len(self.label_column) > 1 and self.kind != "classification":
            raise ValueError(
                f"label_column: several columns are several labels of a classification, not of {self.kind}"
            )
        if self.abstain_error is not None and self.out_of_scope_label is not None:
            raise ValueError("out_of_scope_label: give either this or abstain_error; both set the same threshold")
        return self

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        found = super().without_effect()
        if self.validation is not None:
            found |= dict.fromkeys(("validation_share", "group_column"), "a validation table is given")
        columns = ("group_column", "second_column", *(() if self.validation else READ_TABLES))
        found |= dict.fromkeys(columns if self.tables else (), "each of the tables has its own columns")
        if self.second is not None:
            found["long_text"] = "pairs are always cut"
        if self.warmup_steps:
            found["warmup_share"] = "warmup_steps is given"
        found |= dict.fromkeys(
            (*READ_TABLES, "second_column") if self.benchmark else (), f"the files of {self.benchmark} are known"
        )
        if self.kind not in TEXT_TASKS:
            found |= dict.fromkeys(TEXT_ONLY, f"task is {self.kind}")
        found |= {} if self.frozen_layers else {"cache_frozen": "no layer is frozen"}
        if self.method != "lora":
            found["lora"] = "method is not lora"
        if self.method == "probe":
            found |= dict.fromkeys(TRAINING_ONLY, "method is probe")
        if self.method != "full":
            found |= dict.fromkeys(("frozen_layers", "reinitialised_layers"), "method is not full")
        for name, tasks in READ_BY.items():
            if self.kind not in tasks:
                found[name] = f"task is {self.kind}" if len(tasks) > 2 else f"task is not {' or '.join(tasks)}"
        if self.kind == "regression":
            names = ("class_weights", "focal_gamma", "label_smoothing", "threshold_precision", *ABSTENTION)
            found |= dict.fromkeys(names, "task is regression")
        searched = {name for name in SearchConfig.model_fields if getattr(self.search, name)}
        found |= {name: f"search.{name} is given" for name in searched - found.keys()}
        several = len(self.label_column) > 1
        if several:
            found |= dict.fromkeys((*ABSTENTION, "label_smoothing", "class_weights"), "there are several labels")
        elif self.kind in ("classification", "pair"):
            found["threshold_precision"] = "there is one label"
        return found

    def _check_length(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either steps or epochs (set the other to null)")
        if self.steps is not None and self.search.epochs:
            raise ValueError("search.epochs: give no steps with it")

    def resolved(self, examples: int) -> FinetuneConfig:
        """The settings with the numbers of steps for so many training examples; a default batch has no more than them.

        Raises:
            SettingError: a batch of the given size has more examples than the training part.
        """
        batch_size = min(self.batch_size, examples)
        if batch_size < self.batch_size and self.method != "probe":
            if "batch_size" in self.model_fields_set:
                raise SettingError("batch_size", f"{self.batch_size} is more than the {examples:,} training examples")
            say(f"finetune.batch_size is {batch_size}, because there are {examples:,} training examples")
        an_epoch = math.ceil(examples / batch_size)
        steps = self.steps
        if steps is None:
            epochs = self.epochs or min(MAX_EPOCHS, max(MIN_EPOCHS, SMALL_STEPS / an_epoch))
            steps = max(1, round(epochs * examples / batch_size))
        return self.model_copy(
            update={
                "batch_size": batch_size,
                "steps": steps,
                "epochs": None,
                "warmup_steps": self.warmup_steps or round(self.warmup_share * steps),
                "validate_every": self.validate_every or max(1, min(an_epoch, steps // 10)),
            }
        )
