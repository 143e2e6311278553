"""Which layers each stage of a pipeline has, so that all stages take about as long."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig

EMBEDDING = 1.0
"""Cost of the embeddings, in layers: they compute little, but their gradient and their update are as large as they are
(as in Llama 3, Grattafiori et al. 2024, section 3.3.2)."""


def pipeline_layers(model: DecoderConfig | EncoderConfig, stages: int, chunks: int = 1) -> list[list[range]]:
    """The chunks of layers of each stage: those of stage r are the chunks r, r + stages, ... of all.

    The head costs what its matrices cost in layers; each chunk has at least one layer.
    """
    length = model.max_position_embeddings
    head = model.model_copy(update={"num_layers": 0}).flops_per_token(length)
    layer = (model.flops_per_token(length) - head) / model.num_layers
    parts = divide(model.num_layers, stages * chunks, EMBEDDING, head / layer)
    return [parts[stage::stages] for stage in range(stages)]


def divide(layers: int, parts: int, before: float, after: float) -> list[range]:
    """Divide `layers` layers of cost 1 into consecutive parts of nearly equal cost: the sum of squares is least.

    `before` and `after` are further costs of the first and of the last part. Raises `ValueError` for more parts than
    layers.
    """
    if parts > layers:
        raise ValueError(f"{layers} layers cannot be divided into {parts} parts")

    @cache
    def best(start: int, part: int) -> tuple[float, tuple[int, ...]]:
        """The least cost of the layers from `start` on in the parts from `part` on, and the ends of these parts."""
        last = part == parts - 1
        found = []
        for end in range(layers if last else start + 1, layers - (parts - 1 - part) + 1):
            cost = end - start + before * (part == 0) + after * last
            rest, ends = (0.0, ()) if last else best(end, part + 1)
            found.append((cost**2 + rest, (end, *ends)))
        return min(found)

    ends = best(0, 0)[1]
    return [range(start, end) for start, end in pairwise((0, *ends))]


def about_layers(stages: list[list[range]]) -> str:
    """Which stage has which layers, in words."""
    texts = []
    for number, chunks in enumerate(stages):
        runs = [str(chunk.start) if len(chunk) == 1 else f"{chunk.start}-{chunk.stop - 1}" for chunk in chunks]
        first, last = ["embeddings"] * (number == 0), ["head"] * (number == len(stages) - 1)
        layers = f"layer{'s' * (sum(map(len, chunks)) > 1)} {' and '.join(runs)}"
        texts.append(f"stage {number}: {', '.join([*first, layers, *last])}")
    return "; ".join(texts)
