"""A training that does not fit is refused before it starts, with the settings with which it fits."""

import re
from typing import Any

import pytest

from neolm.core import device
from neolm.core.errors import InputError
from neolm.models.config import decoder_config
from neolm.models.families import preset
from neolm.training import memory_check
from neolm.training.memory import estimate_memory
from neolm.training.memory_check import FreeMemory, free_memory_on, misfit, require_fit
from neolm.training.pretrain_config import PretrainConfig

GIB = 2**30
GPT2 = decoder_config(**preset("gpt2"))
CONFIG = PretrainConfig(steps=1000, sequence_length=1024, batch_size=32, micro_batch_size=16)


def misfit_in(
    gib: float, config: PretrainConfig = CONFIG, device: str = "cpu", host: float | None = None
) -> str | None:
    return misfit(
        GPT2, config, "bfloat16", device, FreeMemory(int(gib * GIB), None if host is None else int(host * GIB))
    )


def with_settings(text: str) -> PretrainConfig:
    """The configuration with `pretrain.KEY=VALUE` settings."""
    changes: dict[str, Any] = {}
    for key, value in re.findall(r"pretrain\.(\w+)=(\w+)", text):
        changes[key] = {"true": True, "false": False}.get(value) if value in ("true", "false") else int(value)
    return CONFIG.model_copy(update=changes)


def test_a_training_that_fits_is_accepted() -> None:
    need = estimate_memory(GPT2, CONFIG, "bfloat16", "cpu").total
    assert misfit(GPT2, CONFIG, "bfloat16", "cpu", FreeMemory(need)) is None
    assert misfit(GPT2, CONFIG, "bfloat16", "cpu", FreeMemory(need - 1)) is not None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_setting_that_is_advised_makes_it_fit(device: str) -> None:
    advised = []
    for gib in (2.9, 3.2, 3.5, 4, 4.5, 5, 6, 7):
        text = misfit_in(gib, device=device) or ""
        for advice in text.partition("it would fit with ")[2].split(" or with "):
            if advice:
                assert misfit_in(gib, with_settings(advice), device) is None
                advised.append(advice)
    assert len(set(advised)) > 3
    assert any("activation_checkpointing" in advice for advice in advised)


def test_the_advice_is_the_largest_micro_batch_and_the_least_change() -> None:
    text = misfit_in(8)
    assert text is not None
    assert re.search(r"needs \d+\.\d GiB of memory and 8\.0 GiB are free; it would fit with", text)
    sizes = [int(size) for size in re.findall(r"micro_batch_size=(\d+)", text)]
    assert misfit_in(8, with_settings(f"pretrain.micro_batch_size={2 * sizes[0]}")) is not None
    assert re.findall(r"with (pretrain\.\S+) or with (pretrain\.\S+)$", text)  # one setting each
    both = misfit_in(3.6)
    assert both is not None
    assert re.search(r"with pretrain\.\S+ pretrain\.\S+", both)  # two together, where none alone does


def test_where_no_setting_helps_the_message_has_the_least_memory() -> None:
    text = misfit_in(1)
    assert text is not None
    # 20 bytes per parameter while gradients are added to their sums, 18 at other times
    assert re.search(r"no setting makes it fit: .* it needs 2\.\d GiB, of which .* are 2\.1 GiB", text)


def test_copies_for_checkpoints_need_the_hosts_memory() -> None:
    assert misfit_in(60, device="cuda", host=4) is None
    text = misfit_in(60, device="cuda", host=1.5)
    assert text is not None
    assert re.search(r"1\.9 GiB of the host's memory and 1\.5 GiB are free; .*asynchronous_checkpoints=false$", text)
    text = misfit_in(60, device="cuda", host=1)  # a synchronous checkpoint is copied to the host, too
    assert text is not None
    assert re.search(
        r"host's memory and 1\.0 GiB are free; no setting makes it fit: .* and 1\.4 GiB of the host's", text
    )


def test_a_container_counts_as_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "memory_bytes", lambda: (64 * GIB, 32 * GIB))
    for left, free in ((None, 32), (8 * GIB, 8), (40 * GIB, 32)):
        monkeypatch.setattr(device, "memory_left", lambda left=left: left)
        assert free_memory_on("cpu") == FreeMemory(free * GIB)


def test_a_run_that_does_not_fit_is_refused_and_a_tight_one_is_announced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need = estimate_memory(GPT2, CONFIG, "bfloat16", "cpu").total
    for free, tight in ((2 * need, False), (int(1.1 * need), True)):
        monkeypatch.setattr(memory_check, "free_memory_on", lambda device, free=free: FreeMemory(free))
        require_fit(GPT2, CONFIG, "bfloat16", "cpu")
        assert ("it may run out" in capsys.readouterr().err) is tight
    monkeypatch.setattr(memory_check, "free_memory_on", lambda device: FreeMemory(need - 1))
    with pytest.raises(InputError, match=r"^pretrain: this training needs .* it would fit with"):
        require_fit(GPT2, CONFIG, "bfloat16", "cpu")
