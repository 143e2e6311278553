"""Every built-in recipe can be planned, and the recipes of published trainings have the published values."""

import re

import pytest
import torch
import yaml

from neolm.models.decoder import count_parameters
from neolm.models.encoder import Encoder
from neolm.recipe import builtin_recipes, load_recipe
from neolm.scaling.plan import assumptions
from neolm.scaling.plan_table import plan_table
from neolm.stages import architecture

PUBLISHED = [name for name in builtin_recipes() if name.startswith("gpt")]

# name: parameters, learning rate, batch size, sequence length, weight decay
TABLE = {
    "gpt-neo-125m": (125_198_592, 6e-4, 256, 2048, 0.1),
    "gpt-neo-1.3b": (1_315_575_808, 2e-4, 512, 2048, 0.1),
    "gpt-neo-2.7b": (2_651_307_520, 1.6e-4, 512, 2048, 0.1),
    "gpt-neox-20b": (20_554_567_680, 0.97e-4, 1536, 2048, 0.01),
    "gpt2": (124_439_808, 6e-4, 512, 1024, 0.1),
    "gpt2-medium": (354_823_168, 3e-4, 512, 1024, 0.1),
    "gpt2-large": (774_030_080, 2.5e-4, 512, 1024, 0.1),
    "gpt2-xl": (1_557_611_200, 2e-4, 512, 1024, 0.1),
    "gpt3-small": (125_226_240, 6e-4, 256, 2048, 0.1),
    "gpt3-medium": (355_871_744, 3e-4, 256, 2048, 0.1),
    "gpt3-large": (760_300_032, 2.5e-4, 256, 2048, 0.1),
    "gpt3-xl": (1_315_723_264, 2e-4, 512, 2048, 0.1),
    "gpt3-2.7b": (2_651_553_280, 1.6e-4, 512, 2048, 0.1),
    "gpt3-6.7b": (6_658_404_352, 1.2e-4, 1024, 2048, 0.1),
    "gpt3-13b": (12_853_386_240, 1e-4, 1024, 2048, 0.1),
    "gpt3-175b": (174_604_259_328, 0.6e-4, 1568, 2048, 0.1),
}
GPT3_BATCHES = {"small": 0.5, "medium": 0.5, "large": 0.5, "xl": 1, "2.7b": 1, "6.7b": 2, "13b": 2, "175b": 3.2}


# name: parameters, learning rate, batch size, steps, warm-up steps, optimiser, sentence task
ENCODERS = {
    "bert-base": (110_106_428, 1e-4, 256, 1_000_000, 10_000, "adamw", "nsp"),
    "bert-large": (336_226_108, 1e-4, 256, 1_000_000, 10_000, "adamw", "nsp"),
    "albert-base": (11_813_810, 1.76e-3, 4096, 125_000, 3_125, "lamb", "sop"),
    "albert-large": (17_847_474, 1.76e-3, 4096, 125_000, 3_125, "lamb", "sop"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_published_values_of_encoders(name: str) -> None:
    parameters, learning_rate, sequences, steps, warmup, optimiser, task = ENCODERS[name]
    recipe = load_recipe(name)
    config, model = recipe.pretrain, architecture(recipe)
    with torch.device("meta"):
        assert Encoder(model).parameter_count() == parameters
    assert (config.learning_rate, config.batch_size, config.steps) == (learning_rate, sequences, steps)
    assert (config.warmup_steps, config.optimiser, config.segments.task) == (warmup, optimiser, task)
    assert (config.beta1, config.beta2, config.epsilon, config.weight_decay) == (0.9, 0.999, 1e-6, 0.01)
    assert not config.bias_correction
    assert (config.gradient_clip, config.schedule, config.final_learning_rate) == (1.0, "linear", 0.0)
    assert config.learning_rate_at(steps) == 0
    assert set(config.no_decay) == {"norm", "bias"}
    assert (config.masking.share, config.masking.mask_share, config.masking.random_share) == (0.15, 0.8, 0.1)
    assert config.segments.short_share == 0.1
    assert config.sequence_length == model.max_position_embeddings == 512
    assert recipe.tokenizer.vocab_size == model.vocab_size
    assert recipe.ignored() == config.ignored() == recipe.model.ignored() == {}


def test_settings_of_bert_and_albert() -> None:
    bert, albert = (load_recipe(name).pretrain for name in ("bert-base", "albert-base"))
    assert [bert.lengths.at(step) for step in (1, 900_000, 900_001)] == [128, 128, 512]
    assert albert.lengths.all == (512,)
    assert (bert.masking.max_ngram, albert.masking.max_ngram) == (1, 3)
    assert (bert.segments.duplicates, albert.segments.duplicates) == (10, 40)


def test_the_table_is_complete() -> None:
    assert sorted(PUBLISHED) == sorted(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_the_published_values(name: str) -> None:
    parameters, learning_rate, sequences, length, weight_decay = TABLE[name]
    recipe = load_recipe(name)
    config = recipe.pretrain
    assert count_parameters(architecture(recipe)) == parameters
    assert (config.learning_rate, config.batch_size, config.sequence_length) == (learning_rate, sequences, length)
    assert config.weight_decay == weight_decay
    assert (config.optimiser, config.beta1, config.beta2, config.epsilon) == ("adamw", 0.9, 0.95, 1e-8)
    assert (config.gradient_clip, config.schedule, config.final_learning_rate) == (1.0, "cosine", 0.1)
    assert set(config.no_decay) == {"norm", "bias"}


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("gpt-neo-")])
def test_settings_of_gpt_neo(name: str) -> None:
    config = load_recipe(name).pretrain
    assert not config.bias_correction
    assert config.z_loss == 1e-4
    assert config.warmup_steps == 3000
    assert config.learning_rate_at(3000) == config.learning_rate
    assert config.learning_rate_at(config.total_steps) == pytest.approx(config.learning_rate / 10)
    assert config.precision == ("float32" if name == "gpt-neo-125m" else "bfloat16")


def test_settings_of_gpt_neox() -> None:
    config = load_recipe("gpt-neox-20b").pretrain
    assert (config.precision, config.loss_scale) == ("float16", 4096)
    assert (config.loss_scale_window, config.loss_scale_hysteresis) == (1000, 2)
    assert (config.micro_batch_size, config.activation_checkpointing) == (4, True)
    assert (config.z_loss, config.bias_correction) == (0, True)
    assert config.warmup_steps == 0.01 * config.total_steps
    assert config.learning_rate_at(150_000) == pytest.approx(0.97e-5)


@pytest.mark.parametrize("size", GPT3_BATCHES)
def test_schedules_of_gpt3(size: str) -> None:
    config = load_recipe(f"gpt3-{size}").pretrain
    assert config.tokens == 300e9
    assert config.batch_size * 2048 == pytest.approx(GPT3_BATCHES[size] * 1e6, rel=0.05)
    first = config.batch_sizes.examples(1)
    assert len(first) * 2048 == 32_768
    assert 4e9 <= (config.batch_ramp_tokens or 0) <= 12e9
    assert len(config.batch_sizes.examples(config.total_steps)) == config.batch_size
    rate = config.learning_rate_share
    assert rate(375_000_000 // 2048) == pytest.approx(1, abs=1e-3)
    assert rate(375_000_000 // 2048 // 2) == pytest.approx(0.5, abs=1e-3)
    assert rate((260_000_000_000 + 375_000_000) // 2048 + 1) == pytest.approx(0.1)
    assert 0.1 < rate(250_000_000_000 // 2048) < 0.11


@pytest.mark.parametrize("name", [*PUBLISHED, *ENCODERS])
def test_every_key_is_set_and_has_its_source(name: str) -> None:
    text = builtin_recipes()[name].read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(r" +\w+: ", line) and "source: files" not in line]
    assert len(lines) > 20
    assert not [line for line in lines if "  # " not in line]
    assert max(map(len, text.splitlines())) <= 120
    recipe = yaml.safe_load(text)
    assert recipe["corpus"] == {"source": "files", "path": None} | recipe["corpus"]  # the user's own data
    stated = re.search(r"# ([\d,]+) parameters", text)
    assert stated is not None
    assert int(stated[1].replace(",", "")) == {**TABLE, **ENCODERS}[name][0]


PLANNED = [name for name in builtin_recipes() if name != "moderation"]  # which fine-tunes: there is nothing to plan
QUICK = ("gpt-neo-125m", "gpt-neox-20b", "gpt2", "quickstart", "text")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PLANNED]
)
def test_every_recipe_can_be_planned(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.pretrain is not None
    table = plan_table(architecture(recipe), recipe.pretrain, assumptions(accelerator="a100"))
    rows = {label.strip(): amount for label, amount, _ in table}
    assert {"parameters", "tokens", "FLOPs", "memory", "activations", "this machine", "time", "energy"} <= set(rows)
    if name in TABLE:
        assert rows["parameters"] == f"{TABLE[name][0]:,}"
