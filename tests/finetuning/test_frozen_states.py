"""Hidden states of frozen layers are computed once, and a training from them is the training without them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny_encoders import tiny_encoder
from topic_tables import QUICK

import neolm
from neolm.core.errors import StorageError
from neolm.finetuning.frozen_states import FrozenStates
from neolm.models.token_batches import padded

Command = Callable[..., tuple[int, str, str]]
WINDOWS = [([2, 5, 6, 3], [0, 0, 0, 0]), ([2, 7, 8, 9, 10, 3], [0, 0, 0, 1, 1, 1]), ([2, 3], [0, 0])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_the_upper_layers_of_stored_states_give_the_logits_of_the_whole_model(
    tmp_path: Path, dtype: torch.dtype, family: str
) -> None:
    model = tiny_encoder(family, head="sequence", num_labels=3, num_layers=3).to(dtype)
    states = FrozenStates(tmp_path / "states.bin", WINDOWS, 32, dtype)
    states.compute(model, 2)
    assert states.path.stat().st_size == states.size == 12 * 32 * dtype.itemsize
    with torch.no_grad():
        for chosen in ([0, 1, 2], [1], [2, 0]):
            inputs = padded([WINDOWS[window] for window in chosen])
            hidden = states.batch(chosen)
            assert hidden.dtype == dtype
            expected = model(**inputs)
            inputs["input_ids"] = torch.zeros_like(inputs["input_ids"])  # only its shape counts
            found = model(**inputs, hidden=hidden, layers=range(2, 3))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 5e-2)


def test_states_are_computed_once(tmp_path: Path) -> None:
    first, second = tiny_encoder("bert", seed=1), tiny_encoder("bert", seed=2)
    states = FrozenStates(tmp_path / "states.bin", WINDOWS, 32, torch.float32)
    (tmp_path / ".states.bin.tmp").write_bytes(b"half of a file, from a run that was killed")
    states.compute(first, 1)
    kept = states.batch([0, 1, 2]).clone()
    states.compute(second, 1)
    assert torch.equal(states.batch([0, 1, 2]), kept)
    assert [path.name for path in tmp_path.iterdir()] == ["states.bin"]
    narrow = FrozenStates(states.path, WINDOWS, 32, torch.bfloat16)  # the run goes on in another precision
    narrow.compute(first.to(torch.bfloat16), 1)
    torch.testing.assert_close(narrow.batch([0, 1, 2]).float(), kept, rtol=0, atol=5e-2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_from_stored_states_has_the_losses_of_one_without_them(
    base: Path, topics: Any, tmp_path: Path, neolm_: Command, precision: str
) -> None:
    train = topics("train.csv", 40, 1)
    losses = []
    quick = [*QUICK, "finetune.frozen_layers=1", f"finetune.precision={precision}", "finetune.tfidf=false"]
    quick += ["finetune.log_every=1", "finetune.learning_rate=1e-4"]
    for stored in ("true", "false"):
        output = tmp_path / stored
        code, out, err = neolm_("finetune", base, "--train", train, "--output", output, *quick,
                                f"finetune.cache_frozen={stored}")  # fmt: skip
        assert code == 0, err
        assert ("are computed once and take 0 MiB until the end" in out + err) == (stored == "true")
        assert not [*output.rglob("*frozen-*")]
        rows = [json.loads(line) for line in (output / "finetune" / "metrics.jsonl").read_text().splitlines()]
        losses.append([row.get("loss", row.get("validation_loss")) for row in rows])
    assert len(losses[0]) > 10
    assert losses[0] == pytest.approx(losses[1], abs=1e-5 if precision == "float32" else 2e-2)


def test_states_that_do_not_fit_are_not_stored(
    base: Path, topics: Any, tmp_path: Path, neolm_: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int = 1000

    states = FrozenStates(tmp_path / "states.bin", WINDOWS, 32, torch.float32)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        with pytest.raises(StorageError, match="the disk is full"):
            states.compute(tiny_encoder("bert"), 1)
    assert not states.path.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())
    code, out, err = neolm_("finetune", base, "--train", topics("train.csv", 40, 1), "--output", tmp_path / "run",
                            *QUICK, "finetune.frozen_layers=1", "finetune.epochs=1")  # fmt: skip
    assert code == 0, err
    assert "of frozen hidden states do not fit on the disk, so each epoch computes them again" in out + err
    assert neolm.load_model(tmp_path / "run").config.num_labels == 2
