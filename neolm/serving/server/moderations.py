"""`/v1/moderations` and `/v1alpha1/comments:analyze`: what the server's policy says about texts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from neolm.core.errors import InputError
from neolm.moderation.moderator import Encoded, Scores, highest
from neolm.moderation.policy import OPENAI_CATEGORIES
from neolm.serving.server.errors import ApiError
from neolm.serving.server.moderation import Moderation
from neolm.serving.server.moderation_schema import AnalyzeRequest, ModerationRequest
from neolm.serving.server.service import Service
from neolm.serving.server.turn import Sender

OPENAI_MODELS = ("omni-moderation-", "text-moderation-")


async def moderations(body: ModerationRequest, service: Service, sender: Sender) -> dict[str, Any]:
    """The response to a moderation request. Raises `ApiError`."""
    moderation = _moderation(service)
    if len(body.input) > service.settings.inputs:
        problem = f"input has {len(body.input)} texts, the limit of this server is {service.settings.inputs}"
        raise ApiError(400, problem, "input", "invalid_value")
    policy = moderation.policy
    if body.model not in (None, str(policy.version)) and not body.model.startswith(OPENAI_MODELS):
        problem = f"the model '{body.model}' is neither this server's policy '{policy.version}' nor one of OpenAI's"
        raise ApiError(404, problem, "model", "model_not_found")
    found = await _scores(moderation, service, sender, [text for texts in body.input for text in texts], "input")
    parts = iter(found)
    return {
        "id": f"modr-{uuid.uuid4().hex}",
        "model": f"{policy.version} sha256:{moderation.moderator.digest[:12]}",
        "results": [_result(moderation, highest([next(parts) for _ in texts])) for texts in body.input],
    }


def _result(moderation: Moderation, scores: Scores) -> dict[str, Any]:
    reached = {name: scores[name].value >= threshold for name, threshold in moderation.moderator.thresholds.items()}
    sources: dict[str, list[str]] = {name: [] for name in OPENAI_CATEGORIES}
    for name, category in moderation.policy.categories.items():
        for shown in {name, category.openai} - {None}:
            sources.setdefault(str(shown), []).append(name)
    return {
        "flagged": any(reached.values()),
        "categories": {shown: any(reached[name] for name in names) for shown, names in sources.items()},
        "category_scores": {
            shown: max((scores[name].value for name in names), default=0.0) for shown, names in sources.items()
        },
        "category_applied_input_types": {shown: ["text"] if names else [] for shown, names in sources.items()},
    }


async def analyze(body: AnalyzeRequest, service: Service, sender: Sender) -> dict[str, Any]:
    """The response to a request in the form of the Perspective API. Raises `ApiError`."""
    moderation = _moderation(service)
    policy = moderation.policy
    known: dict[str, list[str]] = {}
    for name, category in policy.categories.items():
        if category.perspective is not None:
            known.setdefault(category.perspective, []).append(name)
    for attribute in body.requested_attributes:
        if attribute not in known:
            problem = f"the policy of this server has no attribute '{attribute}'; it has: {', '.join(known) or 'none'}"
            raise ApiError(400, problem, "requestedAttributes", "unknown_attribute")
    for language in body.languages or ():
        if language not in policy.languages:
            problem = f"the language '{language}' is not supported; the policy lists {', '.join(policy.languages)}"
            raise ApiError(400, problem, "languages", "unsupported_language")
    (scores,) = await _scores(moderation, service, sender, [body.comment.text], "comment")
    found: dict[str, Any] = {}
    for attribute, asked in body.requested_attributes.items():
        name = max(known[attribute], key=lambda name: scores[name].value)
        if scores[name].value < asked.score_threshold:
            continue
        found[attribute] = {"summaryScore": _score(scores[name].value)}
        if body.span_annotations:
            places = moderation.moderator.window_places(body.comment.text, policy.categories[name].model)
            spans = zip(places, scores[name].values, strict=True)
            listed = [{"begin": begin, "end": end, "score": _score(value)} for (begin, end), value in spans]
            found[attribute]["spanScores"] = listed
    token = {} if body.client_token is None else {"clientToken": body.client_token}
    return {"attributeScores": found, "languages": body.languages or [*policy.languages], **token}


def _score(value: float) -> Mapping[str, Any]:
    return {"value": value, "type": "PROBABILITY"}


def _moderation(service: Service) -> Moderation:
    if service.moderation is None:
        problem = "this server has no moderation policy; neolm serve --moderation FILE sets one"
        raise ApiError(404, problem, None, "moderation_off")
    return service.moderation


async def _scores(
    moderation: Moderation, service: Service, sender: Sender, texts: Sequence[str], field: str
) -> list[Scores]:
    """The scores of each text, within the time limit of a request."""

    def encode() -> list[Encoded]:
        found = []
        for index, text in enumerate(texts):
            try:
                found.append(moderation.moderator.encode(text))
            except InputError as error:
                raise ApiError(400, f"{field}.{index}: {error}", field, "invalid_value") from None
        return found

    client = sender.client.name if sender.client.entry else (sender.address,)
    try:
        async with asyncio.timeout(service.settings.request_seconds):
            rows = await moderation.jobs.make(client, sender.num_bytes, encode)
            sender.client.tokens.spend(sum(len(ids) for row in rows for one in row.values() for ids in one.windows))
            return await moderation.scores(rows, client, lambda: None)
    except TimeoutError:
        raise ApiError(504, "the request takes longer than this server allows", None, "request_timeout") from None
