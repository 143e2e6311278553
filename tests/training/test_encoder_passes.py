"""Forward and backward passes of encoders as THE loop runs them: recomputed, compiled, and in other precisions."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_encoder import encoder_training, write_corpus
from small_training import losses
from tiny_encoders import padded_batch, tiny_encoder

from neolm.core.device import Choice, compiler
from neolm.models.encoder import Encoder
from neolm.training.loop import compile_blocks, recompute_blocks, train

DROPOUT = {"residual_dropout": 0.1, "attention_dropout": 0.1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "albert": ("albert", {}),
    "albert, groups": ("albert", {"groups": 2, "blocks_per_group": 2}),
    "albert, attention": ("albert", {"sharing": "attention"}),
}


def gradients(model: Encoder, lengths: list[int], seed: int = 0) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss of a batch and the gradient of each parameter, with the same dropout for the same seed."""
    batch = padded_batch(97, lengths, max(lengths), seed=seed)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    torch.manual_seed(seed)
    model.zero_grad()
    sums = model(**batch, labels=labels, sentence_labels=torch.arange(len(lengths)) % 2)
    loss = sums.masked_loss + sums.sentence_loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputing_shared_blocks_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    family, fields = KINDS[name]
    model = tiny_encoder(family, num_layers=3, **DROPOUT, **fields).to(dtype).train()
    again = copy.deepcopy(model)
    recompute_blocks(again)
    loss, expected = gradients(model, [12, 40, 7, 11])
    found = gradients(again, [12, 40, 7, 11])
    assert found[0] == loss
    assert found[1].keys() == expected.keys()
    assert all(torch.equal(found[1][key], expected[key]) for key in expected)


def saved_bytes(model: Encoder) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**padded_batch(97, [40] * 8, 40))
    return sum(kept.values())


def test_recomputing_shared_blocks_keeps_less() -> None:
    model = tiny_encoder("albert", num_layers=8).train()
    again = copy.deepcopy(model)
    recompute_blocks(again)
    assert saved_bytes(again) < 0.4 * saved_bytes(model)


# Lengths of the texts of consecutive batches: without padding, in one bucket, in several.
BATCHES = [
    [32, 32, 32],
    [30, 30, 30, 30],
    [30, 29, 28, 12, 5],
    [9, 9],
    [40, 36, 33, 20],
    [17, 3, 3, 3, 8],
    [7],
    [40, 40],
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute")  # of torch itself
@pytest.mark.skipif(compiler() is None, reason="torch.compile on a CPU needs a C++ compiler")
@pytest.mark.parametrize(("name", "recomputed"), [("bert", False), ("albert", False), ("albert, groups", True)])
def test_compiled_blocks_compute_the_same_and_are_compiled_once(name: str, recomputed: bool) -> None:
    family, fields = KINDS[name]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = tiny_encoder(family, num_layers=3, **fields).train()
    compiled = copy.deepcopy(model)
    compile_blocks(compiled)
    if recomputed:
        recompute_blocks(compiled)
    graphs = []
    for seed, lengths in enumerate(BATCHES):
        expected, found = gradients(model, lengths, seed), gradients(compiled, lengths, seed)
        assert found[0] == pytest.approx(expected[0], rel=1e-5)
        for key, value in expected[1].items():
            assert torch.allclose(found[1][key], value, rtol=1e-4, atol=1e-4), key
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert 0 < graphs[0] < graphs[1]  # sizes of the first batch, then any size
    assert graphs[2:] == [graphs[2]] * len(graphs[2:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute")
@pytest.mark.skipif(compiler() is None, reason="torch.compile on a CPU needs a C++ compiler")
@pytest.mark.parametrize("recomputed", [False, True])
def test_a_compiled_training_learns_the_same(tmp_path: Path, recomputed: bool) -> None:
    write_corpus(tmp_path / "shards")
    settings = {"segments": {"task": "sop"}, "short_length": 24, "short_steps": 4, "validate_every": 4, "steps": 8}
    for name in ("off", "on"):
        (tmp_path / name).mkdir()
        recompute = recomputed and name == "on"
        run = encoder_training(
            "albert", tmp_path / "shards", tmp_path / name, activation_checkpointing=recompute, **settings
        )
        train(replace(run, compile=Choice(name, "test")))
    assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), abs=1e-4)


# ---- other precisions ----


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_a_training_in_16_bits_is_close_and_has_float32_weights(tmp_path: Path, family: str, precision: str) -> None:
    write_corpus(tmp_path / "shards")
    settings = {
        "segments": {"task": "sop"},
        "steps": 10,
        "warmup_steps": 2,
        "validate_every": 5,
        "checkpoint_every": 10,
    }
    for name in ("float32", precision):
        (tmp_path / name).mkdir()
        run = encoder_training(family, tmp_path / "shards", tmp_path / name, **settings)
        progress = train(replace(run, precision=Choice(name, "test")))
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in run.model.parameters())
        assert progress.skipped == 0
    assert losses(tmp_path / precision) == pytest.approx(losses(tmp_path / "float32"), abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_constant_rows_before_a_norm_give_finite_gradients(dtype: torch.dtype) -> None:
    model = tiny_encoder("bert", spread=1e-3).train()
    with torch.no_grad():
        for table in (model.embedding, model.positions, model.token_types):
            table.weight.zero_()  # all rows before the first norm are zero, with a deviation of sqrt(1e-12)
    loss, found = gradients(model.to(dtype), [12, 40, 7])
    assert loss == pytest.approx((12 + 40 + 7) * 4.574 + 3 * 0.693, rel=0.02)  # ln 97, ln 2
    assert all(not value.isnan().any() for value in found.values())
