"""Random sample text for tests."""

import random

_SENTENCE = (
    "the river a small boat went down to town and back again while old men sat talking of rain bread light stones "
    "children ran between houses singing nobody knew why morning came slowly over hills"
)
_WORDS = _SENTENCE.split()


def sample_text(seed: int, words: int = 400) -> str:
    """Return random sentences from a small vocabulary, so that the text can be compressed and learnt a little."""
    chooser = random.Random(seed)
    sentences = []
    while words > 0:
        length = chooser.randint(4, 12)
        sentences.append(" ".join(chooser.choice(_WORDS) for _ in range(length)).capitalize() + ".")
        words -= length
    return "\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)) + "\n"
