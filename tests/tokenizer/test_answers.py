"""Which tokens of a conversation are answers, against transformers, and that a chat reads the same tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from neolm.core.errors import InputError
from neolm.tokenizer.chat import DEFAULT_TEMPLATE, Message, OwnTemplate
from neolm.tokenizer.chat_files import training_template
from neolm.tokenizer.tokenizer import Tokenizer, train_tokenizer

TEXT = "What is the sea? The sea is water. be brief, and say the day and the water of April."
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROLES = ("user", "assistant") * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter([TEXT] * 3), 290)


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> OwnTemplate:
    found, default = training_template(tmp_path_factory.mktemp("nothing"), tokenizer)
    assert default == DEFAULT_TEMPLATE
    return found


def conversation(texts: list[str], system: str | None) -> list[Message]:
    said = [Message(role, text) for role, text in zip(ROLES, texts, strict=False)]  # type: ignore[arg-type]
    return said if system is None else [Message("system", system), *said]


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=2, max_size=6)
words = texts.map(lambda found: [f"{text} a" for text in found[: len(found) // 2 * 2]])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=words, system=st.none() | st.just("be brief"))
def test_a_chat_reads_what_was_learnt(
    tokenizer: Tokenizer, template: OwnTemplate, found: list[str], system: str | None
) -> None:
    messages = conversation(found, system)
    encoded = template.encode_answers(messages)
    assert encoded.consistent
    for number, message in enumerate(messages):
        if message.role == "assistant":
            prompt = template.encode(messages[:number])
            assert encoded.ids[: len(prompt)] == prompt
            end = next(n for n in range(len(prompt), len(encoded.ids)) if encoded.ids[n] == tokenizer.eos_token_id)
            assert all(encoded.is_answer[len(prompt) : end + 1])
            assert tokenizer.decode(encoded.ids[len(prompt) : end]) == message.text.strip()
    assert sum(a < b for a, b in zip([False, *encoded.is_answer], encoded.is_answer, strict=False)) == len(found) // 2


def test_the_mask_is_that_of_transformers(tokenizer: Tokenizer, template: OwnTemplate, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(DEFAULT_TEMPLATE)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = conversation(["What is the sea?", " The sea is water. ", "And April?", "Day"], "be brief")
    given = [{"role": message.role, "content": message.text} for message in messages]
    expected = theirs.apply_chat_template(given, return_dict=True, return_assistant_tokens_mask=True)
    found = template.encode_answers(messages)
    assert found.ids == expected["input_ids"]
    assert [int(flag) for flag in found.is_answer] == expected["assistant_masks"]


def test_answers_of_a_template_without_marks(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(iter([TEXT] * 3), 290)
    tokenizer.backend.add_special_tokens([AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>")])
    found = OwnTemplate(CHATML, tokenizer, tmp_path)
    encoded = found.encode_answers(conversation(["sea", " water ", "day", "April"], "be brief"))
    shown = [tokenizer.decode([token]) for token, flag in zip(encoded.ids, encoded.is_answer, strict=True) if flag]
    assert "".join(shown) == "water<|im_end|>\nApril<|im_end|>\n"
    found.close()


def test_a_special_token_in_a_message_is_text(tokenizer: Tokenizer, template: OwnTemplate) -> None:
    encoded = template.encode_answers(conversation(["the <|endoftext|>", "sea"], None))
    assert encoded.ids.count(tokenizer.eos_token_id) == 2  # at the start, and after the answer


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for m in messages %}{{ loop.revindex }}{{ m.content }}{% endfor %}", "renders earlier turns differently"),
        ("{{ raise_exception('never') }}", r"does not accept them \(never\)"),
    ],
)
def test_templates_whose_answers_cannot_be_found(
    tokenizer: Tokenizer, tmp_path: Path, source: str, message: str
) -> None:
    broken = OwnTemplate(source, tokenizer, tmp_path)
    with pytest.raises(InputError, match=message):
        broken.encode_answers(conversation(["sea", "water"], None))
    broken.close()


def test_the_default_template_names_an_unknown_role(template: OwnTemplate) -> None:
    with pytest.raises(InputError, match="there is no role tool"):
        template.encode([Message("tool", "x")])  # type: ignore[arg-type]
