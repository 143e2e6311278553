import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.tokenizer.tokenizer import (
    END_OF_TEXT,
    Tokenizer,
    byte_characters,
    copy_tokenizer,
    load_tokenizer,
    train_tokenizer,
)

TEXT = "def main():\n    return 'the quick brown fox'  # naïve café\n" * 30


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(iter([TEXT, "the slow red fox " * 20]), 300)


@pytest.fixture(scope="module")
def gpt2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gpt2")
    packed = (shared_data / "tok_gpt2" / "encoder.json.zst").read_bytes()
    (directory / "encoder.json").write_bytes(zstandard.decompress(packed))
    (directory / "vocab.bpe").write_bytes((shared_data / "tok_gpt2" / "vocab.bpe").read_bytes())
    return directory


def unpack(path: Path, target: Path) -> Path:
    target.write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()))
    return target


@given(st.binary(max_size=200))
def test_every_byte_string_round_trips(trained: Tokenizer, data: bytes) -> None:
    ids = trained.encode_bytes(data)
    assert trained.decode_bytes(ids) == data
    assert all(0 <= i < trained.size for i in ids)


@given(st.text(max_size=200))
def test_every_text_round_trips(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text


@given(st.lists(st.text(max_size=30), max_size=5))
def test_a_batch_is_each_text_alone(trained: Tokenizer, texts: list[str]) -> None:
    assert trained.encode_batch(texts) == [trained.encode(text) for text in texts]


def with_nfc(tokenizer: Tokenizer, *added: tokenizers.AddedToken) -> Tokenizer:
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.normalizer = tokenizers.normalizers.NFC()
    # One character of two bytes for seven bytes of text, and a token for four of these: NFC's worst case.
    backend.add_tokens([tokenizers.AddedToken("\u0390" * 4, normalized=True), *added])
    return Tokenizer(backend)


SHRINKING = st.text(st.sampled_from("\u1fbe\u0308\u0341\u212a\u1fef\u1100\u1161\u11a8ab \ud800"), max_size=60)


@given(st.text(max_size=60) | SHRINKING)
def test_the_least_number_of_tokens_is_a_lower_bound(trained: Tokenizer, text: str) -> None:
    for tokenizer in (trained, with_nfc(trained)):
        assert tokenizer.min_tokens(text) <= len(tokenizer.encode(text))
        assert tokenizer.min_tokens(text) <= len(tokenizer.encode(text, special=True))
    assert (with_nfc(trained).min_tokens(text) > 0) == (text != "")


def test_the_least_number_of_tokens_of_long_tokens(trained: Tokenizer) -> None:
    end, longest = trained.encode(END_OF_TEXT * 50, special=True), len(END_OF_TEXT)
    assert len(end) == trained.min_tokens(END_OF_TEXT * 50) == 50
    assert trained.min_tokens("x" * longest * 50 + "x") == 51
    worst = "\u1fbe\u0308\u0341" * 4 * 50
    assert len(with_nfc(trained).encode(worst)) == 50 >= with_nfc(trained).min_tokens(worst) > 25
    greedy = with_nfc(trained, tokenizers.AddedToken("<mask>", lstrip=True))
    text = " " * 1000 + "<mask>"
    assert len(greedy.encode(text)) == 1  # a token without a longest text
    assert greedy.min_tokens(text) == 0


def test_a_tokenizer_without_some_bytes_has_no_least_number_of_tokens(trained: Tokenizer) -> None:
    content = json.loads(trained.backend.to_str())
    content["model"]["vocab"] = {END_OF_TEXT: 0, "a": 1}
    content["model"]["merges"] = []
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))
    assert tokenizer.encode("b" * 1000 + "a") == [1]
    assert tokenizer.min_tokens("b" * 1000 + "a") == 0


def test_threads_encode_with_and_without_special_tokens_at_the_same_time(trained: Tokenizer) -> None:
    text = "the quick" + END_OF_TEXT
    expected = {special: trained.encode(text, special) for special in (False, True)}
    assert expected[True][-1] == trained.eos_token_id != expected[False][-1]
    with ThreadPoolExecutor(4) as pool:
        encoded = list(pool.map(lambda number: trained.encode(text, number % 2 == 1), range(400)))
    assert encoded == [expected[number % 2 == 1] for number in range(400)]


def test_lone_surrogates_become_replacement_characters(trained: Tokenizer) -> None:
    assert trained.decode(trained.encode("a\ud800b")) == "a?b"


def test_text_cannot_contain_an_end_of_text(trained: Tokenizer) -> None:
    text = f"a{END_OF_TEXT}b"
    assert trained.eos_token_id not in trained.encode(text)
    assert trained.decode(trained.encode(text)) == text
    assert trained.encode(text, special=True).count(trained.eos_token_id) == 1
    assert trained.eos_token_id not in trained.encode(text)  # `special` applies to one call


def test_tokens_ids_and_lengths(trained: Tokenizer) -> None:
    assert len(trained) == trained.size == 300
    assert repr(trained) == "Tokenizer(300 tokens, eos_token='<|endoftext|>')"
    assert trained(TEXT) == trained.encode(TEXT)
    assert trained(END_OF_TEXT, special=True) == [trained.eos_token_id]
    assert [trained.token_to_id(trained.id_to_token(i)) for i in range(300)] == list(range(300))
    assert trained.id_to_token(trained(" ")[0]) == "Ġ"


def test_ids_and_tokens_that_do_not_exist_are_named(trained: Tokenizer) -> None:
    for token_id in (-1, 300, 2**40):
        with pytest.raises(InputError, match=rf"token id {token_id} is not in the vocabulary \(ids 0 to 299\)"):
            trained.id_to_token(token_id)
    with pytest.raises(InputError, match="token 'zebra' is not in the vocabulary"):
        trained.token_to_id("zebra")
    with pytest.raises(InputError, match="token id -100 is not in the vocabulary"):
        trained.decode([5, -100])
    assert trained.decode([300]) == ""  # a padded embedding has more ids than the tokenizer


def test_the_tokenizer_of_a_run_is_found_and_copied(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "run" / "tokenizer")
    assert load_tokenizer(tmp_path / "run").size == trained.size
    file = tmp_path / "run" / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    copy_tokenizer(tmp_path / "run", tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_bytes() == file.read_bytes()


def test_a_model_directory_with_a_folder_of_that_name_is_itself_the_tokenizer(
    trained: Tokenizer, tmp_path: Path
) -> None:
    trained.save(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("another file")
    assert load_tokenizer(tmp_path).size == trained.size


def test_gpt2s_two_files_are_converted(trained: Tokenizer, tmp_path: Path) -> None:
    trained.backend.model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    copy_tokenizer(tmp_path, tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").encode(TEXT) == trained.encode(TEXT)
    config = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_training_reaches_the_requested_size(trained: Tokenizer) -> None:
    assert trained.size == 300
    assert trained.eos_token_id == 0
    assert len(trained.encode("the quick brown fox")) < len("the quick brown fox") / 2


def test_a_vocabulary_that_is_too_large_for_the_text_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^vocab_size: the corpus is too small for 5000 .* set tokenizer\.vocab_size=\d+ or less"
    ):
        train_tokenizer(iter(["a small text, a small text"]), 5000)


def test_a_saved_tokenizer_is_loaded_unchanged(trained: Tokenizer, tmp_path: Path) -> None:
    trained.encode("x")
    trained.save(tmp_path)
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(place)
        assert loaded.encode(TEXT) == trained.encode(TEXT)
        assert (loaded.eos_token_id, loaded.size) == (trained.eos_token_id, trained.size)


def test_transformers_loads_a_saved_tokenizer(trained: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    trained.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == trained.encode(TEXT)
    assert theirs.eos_token_id == trained.eos_token_id
    assert theirs.decode(trained.encode(TEXT)) == TEXT


def test_copies_are_the_same_bytes_as_the_published_file(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "a")
    (tmp_path / "a" / "tokenizer_config.json").unlink()
    copy_tokenizer(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())["eos_token"] == END_OF_TEXT
    copy_tokenizer(tmp_path / "a" / "tokenizer.json", tmp_path / "c")
    assert load_tokenizer(tmp_path / "c").encode(TEXT) == trained.encode(TEXT)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "there is no tokenizer"),
        ({"tokenizer.json": "{"}, "not valid JSON"),
        ({"vocab.json": "{}", "merges.txt": "a b\n"}, "the merge .* is not of two tokens, or out of vocabulary"),
    ],
)
def test_files_that_are_not_a_tokenizer_are_refused(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=complaint):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


def test_the_byte_alphabet_is_a_bijection() -> None:
    assert len(set(byte_characters().values())) == 256
    assert set(byte_characters().values()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def test_gpt2_known_ids(gpt2: Path) -> None:
    loaded = load_tokenizer(gpt2)
    assert loaded.encode("Hello world") == [15496, 995]
    assert loaded.encode(" Hello world") == [18435, 995]
    assert (loaded.size, loaded.eos_token_id) == (50257, 50256)


@settings(max_examples=300)
@given(text=st.text(max_size=80) | st.text("ab'sll tre \n\t.,12éß中🙂", max_size=80))
def test_gpt2_ids_equal_those_of_openais_encoder(gpt2: Path, text: str) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    ours = _load_once(gpt2)
    assert ours.encode(text) == _openai_encoder(tiktoken, gpt2).encode_ordinary(text)


_cache: dict[str, object] = {}


def _load_once(directory: Path) -> Tokenizer:
    if "ours" not in _cache:
        _cache["ours"] = load_tokenizer(directory)
    found = _cache["ours"]
    assert isinstance(found, Tokenizer)
    return found


def _openai_encoder(tiktoken: object, directory: Path) -> "object":
    if "theirs" not in _cache:
        import tiktoken
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks

        ranks = data_gym_to_mergeable_bpe_ranks(str(directory / "vocab.bpe"), str(directory / "encoder.json"))
        pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        _cache["theirs"] = tiktoken.Encoding(
            "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 50256}
        )
    return _cache["theirs"]


@pytest.mark.parametrize("name", ["tok_neox/20B_tokenizer.json.zst", "tok_gptneo/gpt-neo-tokenizer.json.zst"])
def test_published_tokenizer_files_give_the_ids_of_the_library(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = unpack(shared_data / name, tmp_path / "tokenizer.json")
    loaded, library = load_tokenizer(path), tokenizers.Tokenizer.from_file(str(path))
    for text in (TEXT, "Hello world", "    four spaces\n\n\tand café 中文 🙂", ""):
        assert loaded.encode(text) == library.encode(text, add_special_tokens=False).ids
        assert loaded.decode(loaded.encode(text)) == unicodedata.normalize("NFC", text)
    assert loaded.backend.id_to_token(loaded.eos_token_id) == END_OF_TEXT
    if "neox" in name:
        assert (loaded.size, loaded.eos_token_id) == (50277, 0)
        with pytest.raises(InputError, match="0xff"):
            loaded.encode_bytes(b"\xff")
