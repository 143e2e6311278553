"""What all tests share: one thread a worker (two workers on two cores), no network, small real artefacts."""

import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import hypothesis
import pytest

# No test has a time limit: a busy machine is not a bug.
hypothesis.settings.register_profile("neolm", deadline=None)
hypothesis.settings.load_profile("neolm")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

_WORDS = (
    "the river a small boat went down to town and back again while old men sat talking of rain "
    "bread light stones children ran between houses singing nobody knew why morning came slowly over hills"
).split()


def sample_text(seed: int, words: int = 400) -> str:
    """Text that compresses and can be learnt a little: random sentences from a small vocabulary."""
    chooser = random.Random(seed)
    sentences = []
    while words > 0:
        length = chooser.randint(4, 12)
        sentences.append(" ".join(chooser.choice(_WORDS) for _ in range(length)).capitalize() + ".")
        words -= length
    return "\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)) + "\n"


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of forty small text files."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        (folder / f"story {number:02d}.txt").write_text(sample_text(number), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data that lies beside the checkout on the authors' machines; it is never committed."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data folder ../shared/data, which is not part of the project")
    return SHARED_DATA
