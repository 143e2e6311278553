"""The raw files of a corpus in a fixed order, with the digest of their contents."""

from __future__ import annotations

import os
import sysconfig
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from neolm.core.errors import InputError, SettingError
from neolm.core.files import digest_file, digest_json, expanded
from neolm.corpus.config import CorpusConfig
from neolm.corpus.text import storable

TEXT_SUFFIXES = (".txt", ".md", ".py", ".txt.gz", ".txt.zst")
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PARQUET_SUFFIXES = (".parquet",)
SUPPORTED = ", ".join((*TEXT_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES))

PYTHON_LICENCE = "PSF-2.0"
TOPICS = "pydoc_data/topics.py"  # one long dict; each of its texts becomes a document
IGNORED_KINDS_SHOWN = 5
_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class RawFile:
    """A file to read: `name` is its path relative to the corpus, `kind` its format (text, json, parquet, topics)."""

    path: str
    name: str
    kind: str
    size: int
    modified: int
    """Modification time in nanoseconds."""

    @classmethod
    def at(cls, path: Path, name: str, kind: str) -> RawFile:
        """The file at `path`."""
        status = path.stat()
        return cls(str(path.resolve()), name, kind, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Raw:
    """The files to read, sorted by name, and the numbers of ignored files by kind."""

    location: Path
    files: tuple[RawFile, ...]
    ignored: Mapping[str, int]


@dataclass(frozen=True)
class RawText:
    """The raw text of a corpus as the input of a stage. Files are listed and read only when necessary."""

    config: CorpusConfig
    output: Path

    @cached_property
    def found(self) -> Raw:
        """The files of the corpus. Raises SettingError if there are none."""
        return find_files(self.config, self.output)

    @property
    def path(self) -> str:
        """The file or folder, absolute."""
        return str((_library_root() if self.config.path is None else expanded(self.config.path)).resolve())

    def stamp(self) -> str | None:
        """Digest of names, sizes and modification times; None if the files are no longer there."""
        try:
            return digest_json({file.name: (file.size, file.modified) for file in self.found.files})
        except InputError:
            return None

    def digest(self) -> str:
        """SHA-256 of the names and contents of the files."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest_json({file.name: _digest(file) for file in self.found.files})


def find_files(config: CorpusConfig, output: Path) -> Raw:
    """The files that `config` names. In a folder, `output` and hidden files and folders are ignored.

    Raises:
        SettingError: the path does not exist, has no supported file or is empty, or the settings contradict each other.
    """
    if config.source == "python-stdlib":
        if config.path is not None:
            raise SettingError(
                "path", f"corpus.source=python-stdlib has no path; set corpus.source=files to read {config.path}"
            )
        return _standard_library(output)
    if config.path is None:
        raise SettingError("path", "corpus.source=files needs a file or a folder: corpus.path=FILE_OR_FOLDER")
    path = expanded(config.path)
    try:
        return _folder(path, output) if path.is_dir() else _single_file(path)
    except OSError as error:
        raise SettingError("path", f"{path}: cannot be read ({error.strerror})") from None


def _standard_library(output: Path) -> Raw:
    root = _library_root()
    found = [
        RawFile.at(root / name, name, "topics" if name == TOPICS else "text")
        for name in _names_below(root, output, skip=_NOT_STDLIB)
        if name.endswith(".py")
    ]
    if not found:
        raise SettingError(
            "source",
            f"the standard library of this Python has no .py files below {root}; "
            "use another interpreter, or your own text: corpus.source=files corpus.path=FILE_OR_FOLDER",
        )
    return Raw(root, tuple(found), {})


def _library_root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _single_file(path: Path) -> Raw:
    if not path.exists():
        raise SettingError("path", f"{path} does not exist")
    kind = _kind(path.name)
    if kind is None:
        raise SettingError("path", f"{path}: files of this kind cannot be read; supported: {SUPPORTED}")
    if not path.is_file():
        raise SettingError("path", f"{path} is neither a file nor a folder")
    with path.open("rb") as file:
        if not file.read(1):
            raise SettingError("path", f"{path} is empty; give a file with text in it")
    return Raw(path, (RawFile.at(path, path.name, kind),), {})


def _folder(path: Path, output: Path) -> Raw:
    found = []
    ignored: Counter[str] = Counter()
    for name in _names_below(path, output):
        file, kind = path / name, _kind(name)
        if any(part.startswith(".") for part in name.split("/")):
            ignored["hidden"] += 1
        elif kind is None:
            ignored[storable(file.suffix.lower()) or "without extension"] += 1
        elif not file.is_file():
            ignored["not a regular file"] += 1
        else:
            found.append(RawFile.at(file, name, kind))
    if not found:
        seen = describe_ignored(ignored) if ignored else "no files"
        raise SettingError("path", f"{path} has no text to read ({seen}); supported: {SUPPORTED}")
    return Raw(path, tuple(found), ignored)


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """`ignored 12 files: 9 .png, 2 .zip, 1 without extension`, the most frequent kinds first."""
    number = sum(ignored.values())
    kinds = Counter(ignored).most_common(IGNORED_KINDS_SHOWN)
    shown = [f"{files:,} {kind}" for kind, files in kinds]
    rest = number - sum(files for _, files in kinds)
    shown += [f"{rest:,} of other kinds"] if rest else []
    return f"ignored {number:,} {'file' if number == 1 else 'files'}: {', '.join(shown)}"


def _names_below(root: Path, output: Path, skip: frozenset[str] = frozenset()) -> list[str]:
    """Relative POSIX paths of all files below `root`, sorted, without the folders in `skip` and without `output`."""
    root, forbidden = root.resolve(strict=True), output.resolve()
    names = []
    for directory, folders, files in os.walk(root, onerror=_raise):
        here = Path(directory)
        folders[:] = [name for name in folders if name not in skip and here / name != forbidden]
        names += [(here / name).relative_to(root).as_posix() for name in files]
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error


def _kind(name: str) -> str | None:
    lower = name.lower()
    kinds = {"text": TEXT_SUFFIXES, "json": JSON_SUFFIXES, "parquet": PARQUET_SUFFIXES}
    return next((kind for kind, suffixes in kinds.items() if lower.endswith(suffixes)), None)


def _digest(file: RawFile) -> str:
    try:
        return digest_file(Path(file.path))
    except OSError:
        return "unreadable"
