"""Answers to questions: equal to a plain computation over transformers' logits; mistakes are one line."""

from __future__ import annotations

import csv
import io
import json
import shutil
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
from neolm.metrics.answers import answer_scores
from neolm.models.encoder import Encoder
from neolm.models.hf import save_model
from neolm.prediction.answer_questions import AnswerQuestions
from neolm.prediction.prediction_file import PredictionConfig, write_prediction_file
from neolm.prediction.question_encoder import EncodedQuestion, QuestionEncoder
from neolm.prediction.span_decoding import Answers, Span, SpanDecoder, fit_null_threshold
from neolm.prediction.span_targets import span_windows
from neolm.prediction.text_tokens import TextTokens, cut_windows
from neolm.tables.questions import Answer, Question
from neolm.tokenizer.tokenizer import Tokenizer, copy_tokenizer, load_tokenizer

Call = Callable[..., tuple[int, str, str]]
CONTEXT = (
    "The old men sat in the boat.\n\nA café\u0301 🍞 was by the river, and 東京 slept; the stones went down to town. "
    * 3
)
QUESTIONS = ["Where did the stones go?", "Who sat?", "boat"]
SHORT = "Old men sat"


@pytest.fixture(scope="module")
def span_model(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    directory = tmp_path_factory.mktemp("span")
    size = load_tokenizer(vocabulary).size
    save_model(tiny_encoder("bert", vocab_size=size, head="span", pooler=False, spread=0.3), directory)
    copy_tokenizer(vocabulary, directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Path) -> Tokenizer:
    return load_tokenizer(vocabulary)


def settings(**fields: Any) -> PredictionConfig:
    return PredictionConfig(task="span", **fields)


# ---- the whole way, against transformers ----


def plain_answers(directory: Path, question: str, context: str, stride: int, longest: int) -> tuple[list[Any], float]:
    """All spans of a context as (score, start, end), the best first, and the lowest score of no answer."""
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    room = 40 - 3 - len(tokenizer(question, add_special_tokens=False)["input_ids"])
    encoded = tokenizer(
        question,
        context,
        max_length=40,
        truncation="only_second",
        stride=room - stride,  # the overlap
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for number, offsets in enumerate(encoded["offset_mapping"]):
        inputs = {
            key: torch.tensor([encoded[key][number]]) for key in ("input_ids", "token_type_ids", "attention_mask")
        }
        with torch.no_grad():
            found = model(**inputs)
        places = [n for n, part in enumerate(encoded.sequence_ids(number)) if part == 1]
        windows.append((found.start_logits[0].tolist(), found.end_logits[0].tolist(), places, offsets))
    spans = {}
    for number, (begins, ends, places, offsets) in enumerate(windows):
        for b in range(len(places)):
            owners = []  # the windows of this token, with their context
            for other, (_, _, p, _) in enumerate(windows):
                at = number * stride + b - other * stride
                if 0 <= at < len(p):
                    owners.append((min(at, len(p) - 1 - at) + 0.01 * len(p), -other))
            if -max(owners)[1] != number:
                continue
            for e in range(b, min(b + longest, len(places))):
                start, end = offsets[places[b]][0], offsets[places[e]][1]
                spans[start, end] = begins[places[b]] + ends[places[e]]
    null = min(begins[0] + ends[0] for begins, ends, _, _ in windows)
    return sorted(((score, *place) for place, score in spans.items()), reverse=True), null


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_equal_a_plain_computation_over_transformers_logits(span_model: Path, question: str) -> None:
    context = CONTEXT.replace("\u0301", "")
    expected, null = plain_answers(span_model, question, context, stride=10, longest=6)
    fields = {"stride": 10, "max_answer_tokens": 6, "max_question_tokens": 20}
    (result,) = neolm.predict(span_model, [(question, context)], top_k=8, settings=fields)
    found = [(one["start"], one["end"]) for one in result["alternatives"]]
    assert found == [(start, end) for _, start, end in expected[:8]]
    assert [one["answer"] for one in result["alternatives"]] == [context[start:end] for start, end in found]
    scores = torch.tensor([score for score, _, _ in expected] + [null], dtype=torch.float64)
    probabilities = scores.softmax(dim=0)[:8].tolist()
    assert [one["score"] for one in result["alternatives"]] == pytest.approx(probabilities, rel=1e-4)
    assert result["null_score"] == pytest.approx(null - expected[0][0], abs=1e-4)
    assert (result["answer"], result["score"]) == (
        result["alternatives"][0]["answer"],
        result["alternatives"][0]["score"],
    )
    assert result["question"] == question


def test_a_published_model_needs_no_prediction_file(tmp_path: Path, vocabulary: Path) -> None:
    config = transformers.AlbertConfig(
        vocab_size=load_tokenizer(vocabulary).size,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    transformers.AlbertForQuestionAnswering(config).save_pretrained(tmp_path)
    copy_tokenizer(vocabulary, tmp_path)
    (result,) = neolm.predict(tmp_path, [("Who sat?", CONTEXT)])
    assert result["answer"] == CONTEXT[result["start"] : result["end"]] != ""


def test_results_do_not_depend_on_the_batch(span_model: Path) -> None:
    pairs = [(question, context) for question in QUESTIONS for context in (CONTEXT, SHORT, CONTEXT * 4)]
    together, alone = (neolm.predict(span_model, pairs, batch_size=size) for size in (32, 1))
    assert [row["question"] for row in together] == [question for question, _ in pairs]
    for one, other in zip(together, alone, strict=True):
        places = [[(a["start"], a["end"]) for a in row["alternatives"]] for row in (one, other)]
        assert places[0] == places[1]
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)


def test_the_threshold_decides_whether_there_is_an_answer(span_model: Path, tmp_path: Path) -> None:
    pair = [(QUESTIONS[0], CONTEXT)]
    (answered,) = neolm.predict(span_model, pair)
    null = answered["null_score"]
    model = tmp_path / "model"
    shutil.copytree(span_model, model)
    write_prediction_file(model, settings(null_threshold=null - 1e-3))
    (refused,) = neolm.predict(model, pair)
    assert (refused["answer"], refused["start"], refused["end"]) == ("", None, None)
    assert refused["alternatives"] == answered["alternatives"]
    total = answered["alternatives"][0]["score"] / np.exp(-null)  # the null's share is exp(null) times the best span's
    assert refused["score"] == pytest.approx(total, rel=1e-6)
    assert neolm.predict(model, pair, settings=[f"null_threshold={null + 1e-3}"]) == [answered]
    assert neolm.predict(model, pair, settings={"null_threshold": None}) == [answered]


def test_a_loaded_model_is_not_changed(span_model: Path) -> None:
    model = neolm.load_model(span_model)
    assert isinstance(model, Encoder)
    found = neolm.predict(model.train(), [("Who sat?", CONTEXT)], neolm.load_tokenizer(span_model))
    assert found == neolm.predict(span_model, [("Who sat?", CONTEXT)])
    assert model.training
    with torch.no_grad():
        model.blocks[0].mlp_norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="a logit is not finite"):
        neolm.predict(model, [("Who sat?", CONTEXT)], neolm.load_tokenizer(span_model))


# ---- decoding, against a plain search ----


def question_of(visible: Sequence[bool], size: int, stride: int, tokenizer: Tokenizer) -> EncodedQuestion:
    """A question of two tokens, about a context of tokens of one character, some of which are not visible."""
    n = len(visible)
    starts = np.arange(n)
    context = TextTokens("x" * n, [5] * n, starts, starts + np.array(visible, np.int64))
    return EncodedQuestion(tokenizer, [6, 7], context, cut_windows(n, size, stride))


@st.composite
def decodings(draw: st.DrawFn) -> tuple[list[bool], int, int, int, int, int, float]:
    size = draw(st.integers(1, 8))
    visible = draw(st.lists(st.booleans(), min_size=1, max_size=20).filter(any))
    scale = draw(st.sampled_from([0.0, 1.0, 1e5, 1e37]))  # equal logits, usual ones, those that overflow exp
    stride, longest, n_best, seed = (draw(st.integers(low, high)) for low, high in ((1, size), (1, 9), (1, 6), (0, 99)))
    return visible, size, stride, longest, n_best, seed, scale


@given(decodings())
def test_decoding_equals_a_plain_search(
    tokenizer: Tokenizer, drawn: tuple[list[bool], int, int, int, int, int, float]
) -> None:
    visible, size, stride, longest, n_best, seed, scale = drawn
    question = question_of(visible, size, stride, tokenizer)
    owners = question.windows.with_most_context()
    random = np.random.default_rng(seed)
    decoder = SpanDecoder(question, longest, n_best)
    spans, nulls = [], []
    for number in range(len(question.windows)):
        part = question.windows.tokens(number)
        begin, end = np.round(random.standard_normal((2, len(part) + 5 + 3)), 1) * scale  # with padding
        decoder.add(number, begin, end)
        nulls.append(begin[0] + end[0])
        for b in part:
            spans += [
                (-(begin[4 + b - part.start] + end[4 + e - part.start]), b, e + 1)
                for e in range(b, min(b + longest, part.stop))
                if owners[b] == number and visible[b] and visible[e]
            ]
    spans.sort()
    found = decoder.result()
    assert [(-span.score, span.start, span.end) for span in found.spans] == spans[:n_best]
    scores = np.array([-score for score, _, _ in spans] + [min(nulls)])
    probabilities = torch.from_numpy(scores).softmax(dim=0).tolist()
    assert [span.probability for span in found.spans] == pytest.approx(probabilities[:n_best][: len(spans)], abs=1e-9)
    assert found.null_probability == pytest.approx(probabilities[-1], abs=1e-9)
    assert found.null_score == min(nulls) + spans[0][0]
    assert found.best(None) == found.spans[0]
    assert found.best(found.null_score) == found.spans[0]  # not above it
    assert found.best(np.nextafter(found.null_score, -np.inf)) is None


def test_the_null_threshold_is_fitted_on_labelled_questions() -> None:
    def answers(text: str, null_score: float) -> Answers:
        return Answers([Span(text, 0, len(text), 1.0, 0.5)], null_score, 0.1)

    gold = [Answer("town", 0)]
    questions = [Question("a", "?", "c", gold), Question("b", "?", "c"), Question("c", "?", "c", labelled=False)]
    questions += [Question("d", "?", "c", [Answer("the old boat", 0)])]
    found = [answers("the town", -3.0), answers("sea", 2.0), answers("sea", 9.0), answers("old sea boat", 0.5)]
    fitted = fit_null_threshold(found, questions)
    assert fitted is not None
    texts = [span.text if (span := one.best(fitted.value)) else "" for one in found]
    assert texts == ["the town", "", "", "old sea boat"]
    kept = [n for n, question in enumerate(questions) if question.labelled]
    scores = answer_scores([texts[n] for n in kept], [questions[n].texts for n in kept])
    assert fitted.score == pytest.approx(scores.f1.mean())
    exact = fit_null_threshold(found, questions, exact=True)
    assert exact is not None
    assert exact.score == pytest.approx(2 / 3)
    assert fit_null_threshold(found[:1], questions[:1]) is None  # every question has an answer
    with pytest.raises(InputError, match="not labelled"):
        fit_null_threshold(found[1:2], questions[1:2])


# ---- windows and targets ----


@st.composite
def contexts(draw: st.DrawFn) -> tuple[str, str, int, int, int | None]:
    words = st.sampled_from(["the", "boat", "café\u0301", "東京", "🍞", "Town,", "a", "x\u200b", "\n", "stones"])
    text = " ".join(draw(st.lists(words, min_size=1, max_size=60)))
    start = draw(st.integers(0, len(text) - 1))
    end = draw(st.integers(start + 1, min(len(text), start + 25)))
    return draw(st.sampled_from(QUESTIONS)), text, start, end, draw(st.integers(1, 9) | st.none())


@given(contexts())
def test_targets_are_the_tokens_of_the_whole_answer_or_cls(
    tokenizer: Tokenizer, drawn: tuple[str, str, int, int, int | None]
) -> None:
    question, text, start, end, stride = drawn
    answer = Answer(text[start:end].strip(), start + len(text[start:end]) - len(text[start:end].lstrip()))
    encoder = QuestionEncoder(tokenizer, 40, settings(stride=stride, max_question_tokens=20))
    found = span_windows(encoder, [Question("q", question, text, [answer] if answer.text else [])])
    if found.left_out:
        (reason,) = found.left_out
        assert reason.startswith(
            ("its answer has no tokens", "the context has no tokens", "the context is empty", "its answer is in no")
        )
        assert not found.windows
        return
    encoded = encoder.encode(question, text)
    assert len(found.windows) == len(encoded.windows)
    cls, sep = tokenizer.require_token("cls"), tokenizer.require_token("sep")
    hits = 0
    for number, window in enumerate(found.windows):
        part = encoded.windows.tokens(number)
        tokens = list(encoded.context.ids[part.start : part.stop])
        assert window.input_ids == [cls, *tokenizer.encode(question), sep, *tokens, sep]
        assert window.token_type_ids == [0] * encoded.first + [1] * (len(tokens) + 1)
        assert len(window.input_ids) <= 40
        places = zip(encoded.context.starts, encoded.context.ends, strict=True)
        wanted = set(range(answer.start, answer.end))
        inside = [token for token, (first, after) in enumerate(places) if wanted & set(range(first, after))]
        whole = bool(answer.text) and inside[0] in part and inside[-1] in part
        assert (window.begin, window.end) == (
            (inside[0] - part.start + encoded.first, inside[-1] - part.start + encoded.first) if whole else (0, 0)
        )
        hits += whole
    assert not answer.text or hits


def test_some_windows_without_the_answer_are_kept(tokenizer: Tokenizer) -> None:
    encoder = QuestionEncoder(tokenizer, 40, settings(stride=4, max_question_tokens=20))
    start = CONTEXT.rindex("town")
    with_answer = Question("a", "Where?", CONTEXT, [Answer("town", start)])
    questions = [with_answer, Question("b", "Where?", CONTEXT)]
    everything = span_windows(encoder, questions)
    count = len(encoder.encode("Where?", CONTEXT).windows)
    hits = [window for window in everything.windows if window.begin]
    assert len(everything.windows) == 2 * count > 2 * len(hits) > 0
    for limit in (0, 1, 3):
        found = span_windows(encoder, questions, limit, seed=1)
        assert [window for window in found.windows if window.begin] == hits
        empty = [window.question for window in found.windows if not window.begin]
        assert empty == [0] * limit + [1] * max(limit, 1)
        assert found.dropped_windows == 2 * count - len(found.windows)
        assert span_windows(encoder, questions, limit, seed=1) == found
    assert span_windows(encoder, questions, 1, seed=1) != span_windows(encoder, questions, 1, seed=2)


def test_the_answer_that_most_people_gave_is_the_target(tokenizer: Tokenizer) -> None:
    encoder = QuestionEncoder(tokenizer, 40, settings())
    old, men = Answer("Old", 0), Answer("men", 4)
    for answers, begin in (([old, men, men], 1), ([old, men], 0), ([men], 1)):
        (window,) = span_windows(encoder, [Question("a", "Who?", SHORT, answers)]).windows
        assert window.begin == window.end == encoder.encode("Who?", SHORT).first + begin


def test_a_model_trained_on_the_targets_answers(tokenizer: Tokenizer) -> None:
    context = (
        "The men sat in the boat. Light rain fell on the stones by the river, and bread was in town that day again."
    )
    words = ["boat", "stones", "river", "town", None, None]
    asked = ["Where did they sit?", "Where did it rain?", "What was near?", "Where was bread?", "Who ran?", "Why not?"]
    questions = [
        Question(str(n), asked[n], context, [] if word is None else [Answer(word, context.index(word))])
        for n, word in enumerate(words)
    ]
    model = tiny_encoder("bert", vocab_size=tokenizer.size, head="span", pooler=False, spread=0.1)
    fields = settings(max_question_tokens=14, stride=12)
    windows = span_windows(QuestionEncoder(tokenizer, 40, fields), questions).windows
    assert len(windows) > len(questions)
    ids, types, mask = (torch.zeros(len(windows), 40, dtype=torch.long) for _ in range(3))
    for number, window in enumerate(windows):
        size = len(window.input_ids)
        ids[number, :size], mask[number, :size] = torch.tensor(window.input_ids), 1
        types[number, :size] = torch.tensor(window.token_type_ids)
    places = torch.tensor([[window.begin, window.end] for window in windows])
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        logits = model(ids, mask, types).masked_fill(mask[..., None] == 0, -1e4)  # (B, T, 2)
        torch.nn.functional.cross_entropy(logits, places).backward()
        optimiser.step()
    predictor = AnswerQuestions(model, tokenizer, fields)
    found = list(predictor.answers([predictor.encode(one.question, one.context) for one in questions]))
    fitted = fit_null_threshold(found, questions)
    assert fitted is not None
    assert [span.text if (span := one.best(fitted.value)) else None for one in found] == words
    assert fitted.score == 1


def test_what_cannot_be_trained_on_is_counted(tokenizer: Tokenizer) -> None:
    encoder = QuestionEncoder(tokenizer, 40, settings(max_question_tokens=4))
    long = Answer(CONTEXT[:150], 0)
    questions = [
        Question("a", "Who? " * 6, CONTEXT),
        Question("b", "Who?", CONTEXT, [long]),
        Question("c", "Who?", "\x07 \x07"),
        Question("d", "Who?", "a \x07 b", [Answer("\x07", 2)]),
        Question("e", "Who?", "boating", [Answer("oat", 1)]),
    ]
    found = span_windows(encoder, questions)
    assert {reason: places.first for reason, places in found.left_out.items()} == {
        "the question has more than 4 tokens, max_question_tokens; shorten it": "question a",
        "its answer is in no window as a whole; raise window_tokens, or lower stride": "question b",
        "the context has no tokens: none of its characters is in the vocabulary": "question c",
        "its answer has no tokens": "question d",
    }
    assert found.lines()[0] == "1 windows with an answer and 0 without"
    assert len(found.lines()) == 5 + found.inexact
    assert found.inexact == (tokenizer.encode("boating") != tokenizer.encode("b oat ing"))
    with pytest.raises(InputError, match="question 'x' is not labelled"):
        span_windows(encoder, [Question("x", "Who?", SHORT, labelled=False)])
    with pytest.raises(SettingError, match="null_windows: -1 is less than 0"):
        span_windows(encoder, questions, -1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stride": 18, "max_question_tokens": 20}, "a window of 40 holds 17; the largest stride is 17"),
        ({"stride": 1}, "stride: 1 passes over tokens .* holds 0; lower max_question_tokens"),
        ({"window_tokens": 41}, "window_tokens: 41 is more than the 40 that the model reads"),
    ],
)
def test_settings_that_pass_over_tokens_are_refused(tokenizer: Tokenizer, fields: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        QuestionEncoder(tokenizer, 40, settings(**fields))
    QuestionEncoder(tokenizer, 40, settings(stride=17, max_question_tokens=20))


def test_a_question_may_be_longer_than_its_context(tokenizer: Tokenizer) -> None:
    encoder = QuestionEncoder(tokenizer, 40, settings())
    question = "Who sat by the river and the stones?"
    encoded = encoder.encode(question, "boat")
    assert len(encoded.windows) == 1
    assert encoded.inputs(0)[0] == tokenizer.with_special(tokenizer.encode(question), tokenizer.encode("boat"))[0]


@pytest.mark.parametrize(
    ("question", "context", "message"),
    [
        ("", SHORT, "the question is empty"),
        ("\x07", SHORT, "the question has no tokens"),
        ("Who?", " \n", "the context is empty"),
        ("Who?", "\x07", "the context has no tokens"),
        ("boat " * 37, SHORT, "more than 36 tokens, which leave room for the context; shorten it"),
    ],
)
def test_texts_that_cannot_be_used(tokenizer: Tokenizer, question: str, context: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        QuestionEncoder(tokenizer, 40, settings()).encode(question, context)


# ---- the command ----


def test_the_command_answers_from_a_file_and_from_the_standard_input(
    neolm_: Call, span_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "context.txt"
    path.write_bytes(b"\xef\xbb\xbf" + CONTEXT.replace("\n", "\r\n").encode())
    context = CONTEXT.replace("\n", "\r\n")
    expected = neolm.predict(span_model, [(question, context) for question in QUESTIONS])
    code, out, _ = neolm_("predict", span_model, *QUESTIONS, "--task", "qa", "--context", path, "--json")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(context.encode())))
    code, out, _ = neolm_("predict", span_model, QUESTIONS[0], "--context", "-", "--top-k", 3)
    assert code == 0
    best = expected[0]
    assert len(out.splitlines()) == 3
    assert out.splitlines()[0].endswith(f"  {best['score']:.1%}  {best['start']}-{best['end']}")
    code, out, _ = neolm_("predict", span_model, "Who?", "--context", path, "--set", "null_threshold=-1e9")
    assert code == 0
    assert out.startswith("(no answer)  ")


def test_a_table_gets_answers_with_their_places(neolm_: Call, span_model: Path, tmp_path: Path) -> None:
    rows = [{"question": question, "context": CONTEXT, "answer": "x"} for question in QUESTIONS]
    rows.insert(1, {"question": "", "context": CONTEXT, "answer": "x"})
    rows.insert(2, {"question": "Who?", "answer": "x"})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = neolm_("predict", span_model, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert code == 2
    assert "3 of 5 rows done; line 2: the question is empty; line 3: there is no text under 'context'" in err
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = neolm.predict(span_model, [(question, CONTEXT) for question in QUESTIONS])
    assert [row for row in found if "error" not in row] == [
        {"question": one["question"], "context": CONTEXT, "given_answer": "x", **one} for one in expected
    ]
    (tmp_path / "q.csv").write_text("q,n\n" + "".join(f"{question},1\n" for question in QUESTIONS))
    (tmp_path / "c.txt").write_text(CONTEXT)
    arguments = ["--input", tmp_path / "q.csv", "--text-column", "q", "--context", tmp_path / "c.txt"]
    code, out, _ = neolm_("predict", span_model, *arguments)
    assert code == 0
    assert [json.loads(line)["answer"] for line in out.splitlines()] == [one["answer"] for one in expected]


def test_the_table_of_no_answer_has_empty_cells(neolm_: Call, span_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("question,passage\nWho sat?,Old men sat\n")
    arguments = ["--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv", "--context-column", "passage"]
    assert neolm_("predict", span_model, *arguments, "--set", "null_threshold=-1e9")[0] == 0
    header, row = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "question,passage,answer,score,start,end,null_score,alternatives,error"
    cells = next(csv.reader([row]))
    assert cells[:3] + cells[4:6] + cells[8:] == ["Who sat?", "Old men sat", "", "", "", ""]
    assert 0 < float(cells[3]) < 1
    assert len(json.loads(cells[7])) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Who?"], "a question needs a context: give a file with --context"),
        (["Who?", "--context", "missing.txt"], "missing.txt: there is no such file"),
        (["Who?", "--context", "latin.txt"], "latin.txt: not UTF-8; save the text as UTF-8"),
        (["Who?", "--context", "empty.txt"], "question: the context is empty"),
        (
            ["Who?", "--context", "c.txt", "--task", "fill-mask"],
            "task: 'fill-mask' is not done by a model with the head",
        ),
        (["Who?", "--context", "c.txt", "--task", "spam"], "task: must be"),
        (["Who?", "--context", "c.txt", "--top-k", "0"], "top_k: 0 is not at least 1"),
        (["Who?", "--context", "c.txt", "--set", "stride=99"], "stride: 99 passes over tokens"),
        (["--input", "c.csv"], "there is no column 'question'"),
    ],
)
def test_wrong_arguments_are_one_line(
    neolm_: Call,
    span_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text(CONTEXT)
    (tmp_path / "c.csv").write_text("a,context\nb,c\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    code, out, err = neolm_("predict", span_model, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_only_questions_have_a_context(neolm_: Call, masked_model: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(CONTEXT)
    code, _, err = neolm_("predict", masked_model, "a [MASK]", "--context", tmp_path / "c.txt")
    assert code == 2
    assert "--context is for questions; the head of this model reads a text alone" in err
    code, _, err = neolm_("predict", masked_model, "a [MASK]", "--task", "qa")
    assert code == 2
    assert "task: 'span' is not done by a model with the head 'masked'" in err


def test_a_question_alone_and_another_head_are_refused(
    span_model: Path, masked_model: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(InputError, match="question: give question and context together, in a tuple"):
        neolm.predict(span_model, "Who?")
    model = neolm.load_model(masked_model)
    assert isinstance(model, Encoder)
    with pytest.raises(InputError, match="the head 'masked' cannot answer questions"):
        AnswerQuestions(model, tokenizer, settings())
