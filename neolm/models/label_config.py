"""The labels of a classifier, in the configurations of decoders and encoders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from neolm.core.config import Config

Positive = Annotated[int, Field(gt=0, le=2**24)]
Problem = Literal["single_label_classification", "multi_label_classification", "regression"]


class LabelConfig(Config):
    """The outputs of a classifier; other heads do not read them."""

    num_labels: Positive = 2
    """Outputs of a classifier."""
    labels: tuple[str, ...] | None = None
    """Names of the outputs."""
    problem: Problem | None = None
    """What a classifier of sequences computes; null: regression for one output, else one label of several."""

    @model_validator(mode="after")
    def _a_name_for_each_output(self) -> LabelConfig:
        if self.labels is not None and len(self.labels) != self.num_labels:
            raise ValueError(f"labels: there are {len(self.labels)} names for {self.num_labels} outputs")
        return self

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of a classifier's outputs, `LABEL_0` and so on if they have none."""
        return self.labels or tuple(f"LABEL_{number}" for number in range(self.num_labels))
