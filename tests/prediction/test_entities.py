"""Entities in texts: equal to a plain computation over transformers' logits, and places are those of the raw text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoders import tiny_encoder

import neolm
from neolm.core.errors import InputError, NonFiniteError, SettingError
from neolm.metrics.entities import entities
from neolm.models.encoder import Encoder
from neolm.models.hf import save_model
from neolm.prediction.find_entities import FindEntities
from neolm.prediction.prediction_file import PredictionConfig, WordLabels
from neolm.prediction.tag_decoding import TagDecoder
from neolm.prediction.tag_targets import IGNORED, tag_names, tag_windows
from neolm.prediction.text_encoder import EncodedText, TextEncoder
from neolm.prediction.text_tokens import TextTokens, cut_windows
from neolm.tables.tagged_texts import TaggedList, TaggedText
from neolm.tables.words import text_words
from neolm.tokenizer.tokenizer import Tokenizer, copy_tokenizer, load_tokenizer

Call = Callable[..., tuple[int, str, str]]
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = [
    "Old men sat in New York.",
    "A café\u0301 🍞 was by the river-side, and 東京 slept;  the stones \x07 went down to U.S. towns. " * 3,
    "boat",
]


@pytest.fixture(scope="module")
def token_model(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    directory = tmp_path_factory.mktemp("token")
    size = load_tokenizer(vocabulary).size
    fields: dict[str, Any] = {"head": "token", "pooler": False, "num_labels": len(LABELS), "labels": LABELS}
    save_model(tiny_encoder("bert", seed=3, vocab_size=size, spread=0.5, **fields), directory)
    copy_tokenizer(vocabulary, directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Path) -> Tokenizer:
    return load_tokenizer(vocabulary)


def settings(**fields: Any) -> PredictionConfig:
    return PredictionConfig(task="tokens", **fields)


def plain_probabilities(directory: Path, text: str, stride: int, every: bool) -> list[list[float] | None]:
    """The probabilities of the tags of each word by transformers; None for a word without tokens."""
    model = transformers.AutoModelForTokenClassification.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    encoded = tokenizer(
        text,
        max_length=40,
        truncation=True,
        stride=38 - stride,  # the overlap
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    best: dict[int, tuple[float, int]] = {}  # of each token, its context and its window
    windows = []
    for number, ids in enumerate(encoded["input_ids"]):
        with torch.no_grad():
            windows.append(model(torch.tensor([ids])).logits[0, 1:-1].double())
        n = len(ids) - 2
        for at in range(n):
            context = min(at, n - 1 - at) + 0.01 * n
            if context > best.get(number * stride + at, (-1.0, 0))[0]:
                best[number * stride + at] = context, number
    offsets = {
        number * stride + at: tuple(place)
        for number, places in enumerate(encoded["offset_mapping"])
        for at, place in enumerate(places[1:-1])
    }
    found: list[list[float] | None] = []
    for start, end in text_words(text, "whole"):
        tokens = [token for token, (a, b) in sorted(offsets.items()) if a < end and b > start]
        if not tokens:
            found.append(None)
            continue
        number = best[tokens[0]][1]
        read = tokens if every else tokens[:1]
        rows = [windows[number][t - number * stride] for t in read if t - number * stride < len(windows[number])]
        found.append(torch.stack(rows).mean(dim=0).softmax(dim=0).tolist())
    return found


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_tags_equal_a_plain_computation_over_transformers_logits(token_model: Path, text: str, every: bool) -> None:
    expected = plain_probabilities(token_model, text, 11, every)
    (result,) = neolm.predict(token_model, text, settings={"stride": 11, "word_labels": "all" if every else "first"})
    words = [word for word, row in zip(text_words(text, "whole"), expected, strict=True) if row]
    rows = [row for row in expected if row]
    tags = [LABELS[int(np.argmax(row))] for row in rows]
    assert result["text"] == text
    assert [(e["label"], e["start"], e["end"]) for e in result["entities"]] == [
        (label, words[first][0], words[after - 1][1]) for label, first, after in entities(tags)
    ]
    for entity, (label, first, after) in zip(result["entities"], entities(tags), strict=True):
        assert entity["text"] == text[entity["start"] : entity["end"]]
        mine = [number for number, name in enumerate(LABELS) if name.endswith(label)]
        shares = [sum(row[number] for number in mine) for row in rows[first:after]]
        assert entity["score"] == pytest.approx(float(np.prod(shares)), rel=1e-3)


def test_there_are_entities_of_both_labels_and_over_windows(token_model: Path) -> None:
    (result,) = neolm.predict(token_model, TEXTS[1])
    assert {entity["label"] for entity in result["entities"]} == {"PER", "LOC"}
    assert max(entity["end"] for entity in result["entities"]) > 150  # far behind the first window


def test_a_published_model_finds_entities(tmp_path: Path, vocabulary: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=load_tokenizer(vocabulary).size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )
    transformers.BertForTokenClassification(config).save_pretrained(tmp_path)
    copy_tokenizer(vocabulary, tmp_path)
    assert [set(row) for row in neolm.predict(tmp_path, TEXTS)] == [{"text", "entities"}] * 3


def test_results_do_not_depend_on_the_batch(token_model: Path) -> None:
    together, alone = (neolm.predict(token_model, TEXTS * 2, batch_size=size) for size in (32, 1))
    for one, other in zip(together, alone, strict=True):
        assert [{**e, "score": 0} for e in one["entities"]] == [{**e, "score": 0} for e in other["entities"]]
        assert [e["score"] for e in one["entities"]] == pytest.approx([e["score"] for e in other["entities"]], rel=1e-4)


def test_tags_of_given_words(token_model: Path, tokenizer: Tokenizer) -> None:
    model = neolm.load_model(token_model)
    assert isinstance(model, Encoder)
    predictor = FindEntities(model, tokenizer, settings())
    found = TaggedList()
    found.add_words(["Old", "men", "\x07", "sat", "", "in"], None, "line 1")
    (text,) = found.texts
    (decoder,) = predictor.decoders([predictor.encode(text.text, text.words)])
    tags = decoder.tags()
    assert len(tags) == len(text.words)
    assert entities(tags, strict="IOB2") == decoder.word_entities()
    with torch.no_grad():
        model.blocks[0].mlp_norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="a logit is not finite"):
        predictor.predict([predictor.encode("boat")])


# ---- decoding ----


def one_token_words(count: int, without: Sequence[int], tokenizer: Tokenizer) -> EncodedText:
    """A text of words of one letter with a space between them; those in `without` have no tokens."""
    read = [word for word in range(count) if word not in without]
    places = np.array([2 * word for word in read])
    tokens = TextTokens(" ".join("abcdefghij"[:count]), [5] * len(read), places, places + 1)
    word_tokens = [range(read.index(word), read.index(word) + 1) if word in read else range(0) for word in range(count)]
    words = [(2 * word, 2 * word + 1) for word in range(count)]
    return EncodedText(tokenizer, tokens, words, word_tokens, cut_windows(len(read), 4, 3))


@given(
    st.lists(st.tuples(st.sampled_from(LABELS), st.booleans()), min_size=1, max_size=10).filter(
        lambda w: any(r for _, r in w)
    )
)
def test_broken_tags_are_repaired_as_by_seqeval(tokenizer: Tokenizer, words: list[tuple[str, bool]]) -> None:
    text = one_token_words(len(words), [n for n, (_, read) in enumerate(words) if not read], tokenizer)
    decoder = TagDecoder(text, LABELS)
    read = [n for n, (_, is_read) in enumerate(words) if is_read]
    for number in range(len(text.windows)):
        part = text.windows.tokens(number)
        logits = np.zeros((len(part) + 2, len(LABELS)))
        for at, token in enumerate(part, start=1):
            logits[at, LABELS.index(words[read[token]][0])] = 9.0
        decoder.add(number, logits)
    plain = entities([words[n][0] for n in read])
    assert decoder.word_entities() == [(label, read[first], read[after - 1] + 1) for label, first, after in plain]
    assert entities(decoder.tags(), strict="IOB2") == decoder.word_entities()
    for entity in decoder.found():
        assert entity.text == text.tokens.text[entity.start : entity.end]
        assert 0.9 < entity.probability <= 1


def test_an_entity_goes_on_behind_a_word_without_tokens(tokenizer: Tokenizer) -> None:
    decoder = TagDecoder(one_token_words(3, [1], tokenizer), LABELS)
    logits = np.zeros((4, 5))
    logits[1, 1] = logits[2, 2] = 800.0  # exponentials overflow
    decoder.add(0, logits)
    assert decoder.tags() == ["B-PER", "I-PER", "I-PER"]
    assert decoder.found()[0].text == "a b c"
    assert decoder.found()[0].probability == 1


# ---- alignment and targets ----

WORDS = st.sampled_from(
    ["the", "boats", "café\u0301", "東京", "🍞", "U.S.", "\x07", "", "river-side", "New York", "x\u200b"]
)


@given(
    st.lists(WORDS, min_size=1, max_size=50),
    st.integers(1, 10),
    st.none() | st.integers(1, 10),
    st.sampled_from(["first", "all"]),
)
def test_every_word_with_tokens_is_a_target_once(
    tokenizer: Tokenizer, words: list[str], room: int, stride: int | None, rule: WordLabels
) -> None:
    fields = {"window_tokens": room + 2, "stride": None if stride is None else min(stride, room), "word_labels": rule}
    encoder = TextEncoder(tokenizer, 40, settings(**fields))
    found = TaggedList()
    tags = [("O", "B-PER", "I-PER")[len(word) % 3] for word in words]
    found.add_words(words, tags, "line 1")
    if not found.texts:
        assert not any(word.strip() for word in words)
        return
    (text,) = found.texts
    targets = tag_windows(encoder, [text], LABELS)
    pieces = [tokenizer.encode(word) for word in words]
    if not any(pieces):
        assert {**targets.left_out}.popitem()[0].startswith("the text has no tokens")
        return
    ids = [number for piece in pieces for number in piece]
    assert targets.words_without_tokens == sum(not piece for piece in pieces)
    assert targets.cut_texts == (len(ids) > room)
    gold, seen = text.tags, []
    expected = [LABELS.index(gold[n]) for n, piece in enumerate(pieces) if piece]
    for window in targets.windows:
        assert len(window.input_ids) == len(window.targets) == len(window.token_type_ids) <= room + 2
        assert window.targets[0] == window.targets[-1] == IGNORED
        inside = window.input_ids[1:-1]
        assert any(ids[n : n + len(inside)] == inside for n in range(len(ids)))
        if rule == "first":
            seen += [target for target in window.targets if target != IGNORED]
    if rule == "first":
        assert seen == expected
    else:
        labelled = sum(target != IGNORED for window in targets.windows for target in window.targets)
        assert sum(bool(piece) for piece in pieces) <= labelled <= len(ids)


def test_all_tokens_of_a_word_may_carry_its_tag(tokenizer: Tokenizer) -> None:
    found = TaggedList()
    found.add_words(["boating", "sat"], ["B-LOC", "O"], "line 1")
    pieces = len(tokenizer.encode("boating"))
    assert pieces > 1
    rest = len(tokenizer.encode("sat"))
    for rule, middle in (("first", IGNORED), ("all", 3)):
        (window,) = tag_windows(TextEncoder(tokenizer, 40, settings(word_labels=rule)), found.texts, LABELS).windows
        tail = IGNORED if rule == "first" else 0
        assert window.targets == [IGNORED, 3, *[middle] * (pieces - 1), 0, *[tail] * (rest - 1), IGNORED]


def test_a_model_trained_on_the_targets_finds_the_entities(tokenizer: Tokenizer) -> None:
    text = (
        "Old Anna sat by the river. Then Bob Stone went down to York, and the boat of Anna Stone was in New York. " * 2
    )
    spans = [
        (at, at + len(name), label)
        for name, label in (("Anna sat", "PER"), ("Bob Stone", "PER"), ("Anna Stone", "PER"), ("York", "LOC"))
        for at in range(len(text))
        if text.startswith(name, at)
    ]
    found = TaggedList()
    found.add_spans(text, spans, "line 1")
    fields = settings(words="split")
    names = tag_names(found.texts)
    windows = tag_windows(TextEncoder(tokenizer, 40, fields), found.texts, names).windows
    assert len(windows) > 2
    model = tiny_encoder(
        "bert", vocab_size=tokenizer.size, head="token", pooler=False, num_labels=5, labels=names, spread=0.1
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(40):
        optimiser.zero_grad()
        for window in windows:
            logits = model(torch.tensor([window.input_ids]))[0]  # (T, K)
            torch.nn.functional.cross_entropy(logits, torch.tensor(window.targets), ignore_index=IGNORED).backward()
        optimiser.step()
    (result,) = neolm.predict(model, [text], tokenizer, settings={"words": "split"})
    assert [(e["start"], e["end"], e["label"]) for e in result["entities"]] == sorted(spans)
    assert all(e["score"] > 0.5 for e in result["entities"])


def test_names_of_tags_and_texts_that_cannot_be_trained_on(tokenizer: Tokenizer) -> None:
    texts = [TaggedText("a b", [(0, 1), (2, 3)], [("PER", 0, 1), ("LOC", 1, 2)], "line 1")]
    names = tag_names(texts)
    assert names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    encoder = TextEncoder(tokenizer, 40, settings())
    with pytest.raises(InputError, match="line 1: the tag 'B-LOC' is not among those of the model: O, B-PER, I-PER"):
        tag_windows(encoder, texts, ("O", "B-PER", "I-PER"))
    targets = tag_windows(encoder, [*texts, TaggedText("a \x07", [(0, 1), (2, 3)], [], "line 3")], names)
    targets.cut_texts = 1
    bad = tag_windows(encoder, [TaggedText("\x07", [(0, 1)], [], "line 4")], names).lines()
    assert [*targets.lines(), *bad[1:]] == [
        "2 windows; texts of more than one: 1",
        "words without tokens, which are not trained on: 1",
        "1 text left out: the text has no tokens: none of its characters is in the vocabulary (first: line 4)",
    ]
    with pytest.raises(InputError, match="line 2: the text is not labelled"):
        tag_windows(encoder, [TaggedText("a", [(0, 1)], None, "line 2")], names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stride": 39}, "stride: 39 passes over tokens .* holds 38; the largest stride is 38"),
        ({"window_tokens": 41}, "window_tokens: 41 is more than the 40 that the model reads"),
        ({"window_tokens": 2}, "window_tokens: 2 holds no text"),
    ],
)
def test_settings_that_pass_over_tokens_are_refused(tokenizer: Tokenizer, fields: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TextEncoder(tokenizer, 40, settings(**fields))


# ---- the command ----


def test_the_command_prints_entities_and_extends_tables(neolm_: Call, token_model: Path, tmp_path: Path) -> None:
    expected = neolm.predict(token_model, TEXTS)
    code, out, _ = neolm_("predict", token_model, *TEXTS, "--task", "tokens", "--json")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == expected
    code, out, _ = neolm_("predict", token_model, TEXTS[0])
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == TEXTS[0]
    assert len(lines) == 1 + max(1, len(expected[0]["entities"]))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, "", "\x07"]))
    code, _, err = neolm_("predict", token_model, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert code == 2
    assert "3 of 5 rows done; line 4: the text is empty; line 5: the text has no tokens" in err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[:3] == expected


def test_lists_of_words_get_tags(neolm_: Call, token_model: Path, tmp_path: Path) -> None:
    lists: list[Any] = [["Old", "men", "sat"], ["boat", "", "\x07", "town"], [], ["a", 3], "old", ["\x07"]]
    for name, column in (("tokens", None), ("words", "words")):
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({name: words}) + "\n" for words in lists))
        chosen = [] if column is None else ["--text-column", column]
        target = tmp_path / f"{name}.jsonl"
        code, _, err = neolm_("predict", token_model, "--input", tmp_path / "in.jsonl", "--output", target, *chosen)
        assert code == 2
        assert "2 of 6 rows done; line 3: it has no words; line 4: the value under" in err
        rows = [json.loads(line) for line in target.read_text().splitlines()]
        assert [row[name] for row in rows] == lists
        for words, row in zip(lists[:2], rows, strict=False):
            (plain,) = neolm.predict(token_model, " ".join(words))
            assert [{**e, "score": 0} for e in row["entities"]] == [{**e, "score": 0} for e in plain["entities"]]
            assert len(row["tags"]) == len(words)
            assert len(entities(row["tags"], strict="IOB2")) == len(row["entities"])
        assert rows[5]["error"].startswith("the text has no tokens")
    (tmp_path / "both.jsonl").write_text(json.dumps({"text": "Old men", "tokens": ["boat"]}))
    code, out, _ = neolm_("predict", token_model, "--input", tmp_path / "both.jsonl")
    assert code == 0
    assert "tags" not in json.loads(out)


def test_the_words_of_a_raw_text_follow_the_setting(token_model: Path, tokenizer: Tokenizer) -> None:
    encoded = [TextEncoder(tokenizer, 40, settings(words=rule)).encode("U.S. towns") for rule in ("whole", "split")]
    assert [len(text.words) for text in encoded] == [3, 5]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "the labels of the model, ['LABEL_0', 'LABEL_1'], mark no entities: 'LABEL_0' is no tag of BIO"),
        (("NOUN", "VERB"), "mark no entities: 'NOUN' is no tag"),
        (("B-PER", "B-PER"), "name a tag twice"),
    ],
)
def test_labels_that_are_no_tags_are_refused(
    neolm_: Call, tmp_path: Path, vocabulary: Path, labels: tuple[str, ...] | None, message: str
) -> None:
    size = load_tokenizer(vocabulary).size
    save_model(tiny_encoder("bert", vocab_size=size, head="token", pooler=False, num_labels=2, labels=labels), tmp_path)
    copy_tokenizer(vocabulary, tmp_path)
    code, out, err = neolm_("predict", tmp_path, "boat")
    assert (code, out) == (2, "")
    assert message in err


def test_another_head_is_refused(masked_model: Path, tokenizer: Tokenizer) -> None:
    model = neolm.load_model(masked_model)
    assert isinstance(model, Encoder)
    with pytest.raises(InputError, match="the head 'masked' cannot find entities"):
        FindEntities(model, tokenizer, settings())
