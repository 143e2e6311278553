"""`neolm finetune --task instruct` through the real commands; packing, cutting, and what is learnt."""

import json
import operator
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forked_command
import pytest
import sacrebleu
import torch
import transformers
from rouge_score.rouge_scorer import RougeScorer
from safetensors.torch import load_file
from tiny_encoders import write_encoder
from tiny_models import tiny_decoder
from topic_tables import write_csv
from torch.nn import functional as F

import neolm
from neolm.core.errors import InputError
from neolm.data.batch import IGNORED
from neolm.finetuning.conversation_examples import ConversationExample, ConversationExamples
from neolm.finetuning.heads import with_head
from neolm.finetuning.instruct_task import _encoded
from neolm.models.adapter_files import load_adapter
from neolm.models.hf import save_model
from neolm.tables.conversations import Conversation, Turn
from neolm.tokenizer.chat import DEFAULT_TEMPLATE, Message, OwnTemplate
from neolm.tokenizer.chat_files import load_chat_template, training_template
from neolm.tokenizer.tokenizer import load_tokenizer, train_tokenizer
from neolm.training.objective import CausalLanguageModelling

Command = Callable[..., tuple[int, str, str]]
QUICK = (
    *("finetune.epochs=12", "finetune.batch_size=16", "finetune.learning_rate=1e-2", "finetune.precision=float32"),
    *("finetune.device=cpu", "finetune.patience=null"),
)
ANSWERS = {"sea": "water", "day": "April", "clock": "time"}
TEXT = "System: User: Assistant: What is the sea ? It is water . And the day ? It is April , and the clock is time ."


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("decoder")
    tokenizer = train_tokenizer(iter([TEXT, TEXT.lower()] * 3), 300)
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    save_model(tiny_decoder("gpt-neo", 64, vocab_size=300, spread=0.05, **ends), place)
    tokenizer.save(place)
    return place


def questions(path: Path, count: int) -> Path:
    rows = []
    for number in range(count):
        name = [*ANSWERS][number % 3]
        asked = {"role": "user", "content": f"{'and ' * (number // 3 % 4)}the {name} ?"}
        rows.append({"messages": [asked, {"role": "assistant", "content": f"It is {ANSWERS[name]}"}]})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def run(neolm_: Command, *arguments: object) -> str:
    code, out, err = neolm_(*arguments)
    assert code == 0, err
    return out + err


def test_answers_are_learnt_and_chat_has_them(decoder: Path, tmp_path: Path, neolm_: Command) -> None:
    output = tmp_path / "run"
    said = run(
        neolm_, "finetune", decoder, "--task", "instruct", "--train", questions(tmp_path / "train.jsonl", 48),
        "--validation", questions(tmp_path / "validation.jsonl", 6), "--output", output, *QUICK,
    )  # fmt: skip
    assert "48 conversations (messages) of 96 messages, 48 of them answers" in said
    assert "6 of 6 conversations are also in the training part; scores will be too good" in said
    found = json.loads((output / "finetune" / "results.json").read_text())
    assert found["scores"]["base"]["token_accuracy"] < 0.2
    assert found["scores"]["fine-tuned"]["token_accuracy"] == 1.0
    model = output / "model"
    assert (model / "chat_template.jinja").read_text() == DEFAULT_TEMPLATE
    tokenizer = load_tokenizer(model)
    template = load_chat_template(model, tokenizer)
    ids = template.encode([Message("user", "the day ?")])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model)
    written = theirs.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :].tolist()
    assert tokenizer.decode(written) == "It is April<|endoftext|>"
    template.close()
    assert [one["answer"] for one in neolm.predict(output, ["the sea ?", "the clock ?"])] == [
        "It is water",
        "It is time",
    ]
    assert "It is water" in run(neolm_, "predict", output, "the sea ?")
    card = (model / "README.md").read_text()
    assert "It answers as the conversations do" in card
    assert "| Answer tokens that are the likeliest | 100.0% |" in card
    page = (output / "report.html").read_text()
    assert "is better than a simple baseline" in page
    assert "neolm chat" in page


def test_two_columns_with_a_prompt_and_lora(decoder: Path, tmp_path: Path, neolm_: Command) -> None:
    rows = [(f"{'the ' * (n // 3 % 4)}{name}", ANSWERS[name]) for n in range(60) for name in [[*ANSWERS][n % 3]]]
    train, output = write_csv(tmp_path / "train.csv", ("source", "target"), rows), tmp_path / "run"
    run(
        neolm_, "finetune", decoder, "--task", "instruct", "--train", train, "--text-column", "source",
        "--label-column", "target", "--prompt", "What is ", "--output", output, *QUICK, "finetune.method=lora",
        "finetune.lora.rank=4",
    )  # fmt: skip
    assert json.loads((output / "model" / "prediction.json").read_text())["prompt"] == "What is "
    before, after = (load_file(place / "model.safetensors") for place in (decoder, output / "model"))
    assert all(torch.equal(before[name], after[name]) for name in before if "wte" in name or "ln_" in name)
    adapted = neolm.load_model(decoder)
    load_adapter(adapted, output / "model" / "adapter")
    merged = neolm.load_model(output / "model")
    ids = torch.arange(20).unsqueeze(0)
    torch.testing.assert_close(adapted.eval()(ids), merged(ids), atol=1e-5, rtol=0)
    rows = [(1, "sea"), (2, ""), (3, "the day")]
    table, target = write_csv(tmp_path / "new.csv", ("id", "source"), rows), tmp_path / "out.jsonl"
    code, _, err = neolm_("predict", output, "--input", table, "--text-column", "source", "--output", target)
    assert code == 2, err  # a row is empty
    written = [json.loads(line) for line in target.read_text().splitlines()]
    alone = neolm.predict(output, ["sea", "the day"])
    assert [row.get("answer") for row in written] == [alone[0]["answer"], None, alone[1]["answer"]]
    assert written[1]["error"] == "the text is empty"
    rows = [("the sea", "water"), ("clock", "the time, or so"), ("day", ""), ("the " * 80, "x")]
    table, scores = write_csv(tmp_path / "gold.csv", ("source", "target"), rows), tmp_path / "scores.json"
    columns = ("--text-column", "source", "--label-column", "target")
    said = run(neolm_, "evaluate", output, "--input", table, *columns, "--output", scores)
    assert "1 of 3 texts leave no room for an answer; they are not scored" in said
    found = json.loads(scores.read_text())
    answers = [one["answer"] for one in neolm.predict(output, ["the sea", "clock"])]
    truths = ["water", "the time, or so"]
    assert found["scores"]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(answers, [truths]).score)
    assert found["scores"]["chrf"] == pytest.approx(sacrebleu.corpus_chrf(answers, [truths]).score)
    expected = [RougeScorer(["rougeL"]).score(*pair)["rougeL"].fmeasure for pair in zip(truths, answers, strict=True)]
    assert found["scores"]["rougeL"] == found["interval"]["value"] == pytest.approx(sum(expected) / 2)
    assert found["scores"]["exact_match"] == sum(map(operator.eq, answers, truths)) / 2
    assert found["protocol"]["prediction"]["prompt"] == "What is "
    long = write_csv(tmp_path / "long.csv", ("source", "target"), rows[-1:])
    code, _, err = neolm_("evaluate", output, "--input", long, *columns)
    assert (code, err.splitlines()[-1]) == (2, f"neolm: {long}: no text leaves room for an answer")


def test_an_untied_head_is_kept() -> None:
    base = tiny_decoder("gpt-neox", 64)
    model = with_head(base, base.config, 5)
    assert torch.equal(model.head.weight, base.head.weight)  # type: ignore[union-attr]
    assert not torch.equal(base.head.weight, base.embedding.weight)


def examples(lengths: Sequence[int], positions: int = 64) -> ConversationExamples:
    generator = torch.Generator().manual_seed(3)
    found = []
    for number, length in enumerate(lengths):
        ids = torch.randint(1, 300, (length + 1,), generator=generator).tolist()
        labels = [token if place >= length // 3 else IGNORED for place, token in enumerate(ids[1:])]
        found.append(ConversationExample(ids[:-1], labels, f"row {number}"))
    return ConversationExamples(found, positions)


@pytest.mark.parametrize("family", ["gpt2", "gpt-neo", "gpt-neox"])
def test_packed_losses_are_those_of_each_conversation_alone(family: str) -> None:
    layers = {"attention_layers": ("global", "local"), "window_size": 4} if family == "gpt-neo" else {}
    model = tiny_decoder(family, 64, **layers)
    data, objective = examples([40, 9, 17, 3, 12, 25, 1]), CausalLanguageModelling()
    batch = data.batch(range(7))
    assert len(batch) < 7
    assert sorted(number for row in batch.examples for number in row) == [*range(7)]
    assert batch.tokens == 107
    packed = objective(model, batch)["next_token"].total
    packed.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    alone = torch.zeros(())
    for one in data.windows:
        logits = model(torch.tensor([one.ids]))[0]
        alone = alone + F.cross_entropy(logits, torch.tensor(one.labels), reduction="sum", ignore_index=IGNORED)
    alone.backward()
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-5)
    for given, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(given, parameter.grad, atol=1e-4, rtol=1e-4)
    assert objective.targets(batch) == {
        "next_token": sum(label != IGNORED for one in data.windows for label in one.labels)
    }


def test_a_conversation_does_not_see_its_neighbours() -> None:
    model = tiny_decoder("gpt2", 64)
    data = examples([40, 20, 20])
    batch = data.batch([0, 1, 2])
    assert batch.examples == [(0,), (1, 2)]
    changed = batch["input_ids"].clone()
    changed[1, :20] = 7
    given = {"attention_mask": batch["attention_mask"], "positions": batch["positions"]}
    before, after = (model(ids, **given) for ids in (batch["input_ids"], changed))
    assert torch.equal(before[1, 20:40], after[1, 20:40])
    assert not torch.equal(before[1, :20], after[1, :20])
    assert [*data.places(batch.examples)] == ["row 0", "row 1", "row 2"]


@pytest.fixture(scope="module")
def template(decoder: Path) -> OwnTemplate:
    return training_template(decoder, load_tokenizer(decoder))[0]


def conversation(*texts: str, system: str = "") -> Conversation:
    turns = [Turn("user" if number % 2 == 0 else "assistant", text) for number, text in enumerate(texts)]
    return Conversation((*([Turn("system", system)] if system else []), *turns), f"row {texts[0]}")


def test_long_conversations_lose_their_oldest_turns(
    template: OwnTemplate, decoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(decoder)
    one = conversation("the sea ? " * 4, "water", "the day ?", "April", system="It is")
    found = _encoded(template, [one], 32, "table").windows[0]
    shown = tokenizer.decode(found.ids)
    assert shown == "<|endoftext|>System:\nIt is\nUser:\nthe day ?\nAssistant:\nApril"
    assert tokenizer.decode([label for label in found.labels if label != IGNORED]) == "April<|endoftext|>"
    assert "1 conversations of more than 32 tokens lose 2 oldest messages" in capsys.readouterr().err


def test_a_long_answer_is_cut_and_a_long_question_left_out(
    template: OwnTemplate, decoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(decoder)
    long_answer, long_question = conversation("the sea ?", "water " * 40), conversation("the sea ? " * 20, "water")
    found = _encoded(template, [long_answer, long_question], 32, "table").windows
    assert len(found) == 1
    assert len(found[0].ids) == 31
    learnt = tokenizer.decode([label for label in found[0].labels if label != IGNORED])
    assert learnt == ("water " * 40)[: len(learnt)]
    said = capsys.readouterr().err
    assert "1 answers are cut at their end" in said
    assert "1 conversation left out: what comes before the answer fills the 32 tokens (first: row the sea" in said
    with pytest.raises(InputError, match="no conversation has an answer that can be learnt"):
        _encoded(template, [long_question], 32, "table")


def test_an_own_template_is_kept_and_its_end_token_ends_answers(decoder: Path, tmp_path: Path, neolm_: Command) -> None:
    base = tmp_path / "base"
    tokenizer = load_tokenizer(decoder)
    tokenizer.backend.add_special_tokens(["<|im_end|>"])
    tokenizer.save(base)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    save_model(tiny_decoder("gpt2", 64, vocab_size=301, spread=0.05, **ends), base)
    source = "{% for m in messages %}{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    source += "{{ 'assistant ' if add_generation_prompt }}"
    (base / "chat_template.jinja").write_text(source)
    run(
        neolm_, "finetune", base, "--task", "instruct", "--train", questions(tmp_path / "train.jsonl", 24), "--output",
        tmp_path / "run", *QUICK, "finetune.epochs=1",
    )  # fmt: skip
    assert (tmp_path / "run" / "model" / "chat_template.jinja").read_text() == source
    assert json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())["eos_token_id"] == [0, 300]


@pytest.mark.parametrize(
    ("template_source", "message"),
    [
        ("{% for m in messages", "the chat template cannot be read"),
        ("{{ raise_exception('no') }}", "does not accept them (no)"),
    ],
)
def test_templates_that_fail(
    decoder: Path, tmp_path: Path, neolm_: Command, template_source: str, message: str
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in decoder.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    (base / "chat_template.jinja").write_text(template_source)
    code, _, err = neolm_(
        "finetune", base, "--task", "instruct", "--train", questions(tmp_path / "train.jsonl", 24), "--output",
        tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "finetune.train: {path}: the file is empty"),
        ('{"messages": []}', "no row is a conversation with an answer"),
        ('{"body": "x"}', "the columns (body) are not those of conversations"),
        ("nothing", "have no JSON object"),
    ],
)
def test_tables_that_cannot_be_learnt_from(
    decoder: Path, tmp_path: Path, neolm_: Command, content: str, message: str
) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(content)
    code, _, err = neolm_("finetune", decoder, "--task", "instruct", "--train", train, "--output", tmp_path / "run")
    assert code == 2
    assert message.format(path=train) in err.splitlines()[-1]


def test_an_encoder_is_refused(tmp_path: Path, neolm_: Command) -> None:
    train = questions(tmp_path / "train.jsonl", 24)
    encoder = write_encoder(tmp_path / "encoder")
    code, _, err = neolm_("finetune", encoder, "--task", "instruct", "--train", train, "--output", tmp_path / "run")
    assert code == 2
    assert "it reads text and cannot write it" in err.splitlines()[-1]


def test_a_killed_run_ends_with_the_same_bits(decoder: Path, tmp_path: Path) -> None:
    train = questions(tmp_path / "train.jsonl", 40)
    settings = [*QUICK[1:], "finetune.checkpoint_every=3", "finetune.log_every=1", "finetune.lora.dropout=0.1"]
    settings += ["finetune.method=lora", "finetune.steps=10", "finetune.validate_every=5"]

    def arguments(output: Path) -> list[object]:
        return ["finetune", decoder, "--task", "instruct", "--train", train, "--output", output, *settings]

    whole, killed, said = tmp_path / "whole", tmp_path / "killed", tmp_path / "said.txt"
    forked_command.finish(arguments(whole), said)
    metrics = killed / "finetune" / "metrics.jsonl"
    process = forked_command.start(arguments(killed), said)
    while process.is_alive() and not (metrics.exists() and len(metrics.read_bytes().splitlines()) > 4):
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not (killed / "model").exists()
    forked_command.finish(arguments(killed), said)

    def outcome(output: Path) -> tuple[Any, Any]:
        measured = ("tokens_per_second", "mfu", "memory_bytes")
        lines = (output / "finetune" / "metrics.jsonl").read_text().splitlines()
        rows = [{k: v for k, v in json.loads(line).items() if k not in measured} for line in lines]
        weights = load_file(output / "model" / "model.safetensors")
        return rows, {name: tensor.tolist() for name, tensor in weights.items()}

    assert outcome(whole) == outcome(killed)
