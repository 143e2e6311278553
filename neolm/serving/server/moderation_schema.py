"""Bodies of `/v1/moderations` (OpenAI's), with its response, and of `/v1alpha1/comments:analyze` (Perspective's)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from neolm.serving.server.embedding_schema import MAX_INPUTS
from neolm.serving.server.request_schema import IGNORED, Flag, RequestShape, Shape, Short, Text, TextPart

Probability = Annotated[float, Field(ge=0, le=1)]


def _inputs(value: Any) -> list[list[str]]:
    """The texts of each input: a text, a list of texts, or a list of parts, which are one input together."""
    given = value if isinstance(value, list) else [value]
    if not given or len(given) > MAX_INPUTS:
        raise ValueError(f"has {len(given)} inputs; there must be 1 to {MAX_INPUTS:,}")
    if all(isinstance(one, str) for one in given):
        return [[one] for one in given]
    for index, one in enumerate(given):
        if isinstance(one, dict) and one.get("type") == "image_url":
            raise ValueError(f"has an image at index {index}: the classifiers of this server read texts only")
    if not all(isinstance(one, dict) for one in given):
        raise ValueError('must be a text, a list of texts, or a list of parts {"type": "text", "text": ...}')
    return [[TextPart.model_validate(one).text for one in given]]


class ModerationRequest(RequestShape):
    """Judge texts by the moderation policy of the server."""

    input: Annotated[
        list[list[Text]],
        BeforeValidator(_inputs, json_schema_input_type=Text | list[Text] | list[TextPart]),
    ]
    """A text, a list of texts, or a list of text parts, which are judged together."""
    model: Short | None = None
    """Ignored if it is one of OpenAI's; otherwise the version of the policy."""


class ModerationResult(Shape):
    """What the policy says about one input. OpenAI's categories that it does not judge are false."""

    flagged: bool
    """Whether the input is in a category of the policy."""
    categories: dict[str, bool]
    """OpenAI's categories, and those of the policy by their own names (an addition)."""
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]
    """An empty list: the policy does not judge this category."""


class ModerationList(Shape):
    """Results in the order of the inputs."""

    id: str
    model: str
    """The version of the policy and its digest."""
    results: list[ModerationResult]


class Comment(RequestShape):
    """The text to score."""

    text: Text
    """Not empty."""
    type: Literal["PLAIN_TEXT", "TEXT_TYPE_UNSPECIFIED"] | None = None
    """Only plain text is supported."""


class AttributeRequest(RequestShape):
    """An attribute to score."""

    score_type: Literal["PROBABILITY", "SCORE_TYPE_UNSPECIFIED"] | None = Field(None, alias="scoreType")
    """Scores are probabilities."""
    score_threshold: Probability = Field(0.0, alias="scoreThreshold")
    """Leave the attribute out of the answer if its score is lower."""


class AnalyzeRequest(RequestShape):
    """Score a comment in the form of the Perspective API: `attributeScores`, each with `summaryScore`."""

    comment: Comment
    """What is scored."""
    requested_attributes: Annotated[dict[Short, AttributeRequest], Field(min_length=1, alias="requestedAttributes")]
    """Attributes to score, those that the policy's categories name."""
    languages: list[Short] | None = None
    """Languages of the comment; a language that the policy does not list is refused."""
    span_annotations: Flag = Field(default=False, alias="spanAnnotations")
    """Score each window of a long comment too."""
    client_token: Short | None = Field(None, alias="clientToken")
    """Returned."""
    do_not_store: Flag | None = Field(None, alias="doNotStore")
    """Ignored: nothing is stored."""
    session_id: Short | None = Field(None, alias="sessionId", description="Ignored.")
    community_id: Short | None = Field(None, alias="communityId", description="Ignored.")
    context: dict[Short, Any] | None = IGNORED
