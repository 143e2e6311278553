"""Which raw files a corpus is made of, in a fixed order, with the digest of what is in them."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from neolm.core.errors import InputError
from neolm.core.files import digest_file, digest_json
from neolm.corpus.config import CorpusConfig

TEXT_SUFFIXES = (".txt", ".md", ".py", ".txt.gz", ".txt.zst")
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PARQUET_SUFFIXES = (".parquet",)
SUPPORTED = ", ".join((*TEXT_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES))

PYTHON_LICENCE = "PSF-2.0"
TOPICS = "pydoc_data/topics.py"  # one long dict; its texts become documents of their own
_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class RawFile:
    """A file to read: `name` is its path relative to the corpus, `kind` says how it is read."""

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
    """All that a corpus is made of: the files to read, sorted by name, and how many were passed over."""

    location: Path
    files: tuple[RawFile, ...]
    ignored: int


@dataclass(frozen=True)
class RawText:
    """The raw text of a corpus as the input of a stage: files are listed and read only when that is needed."""

    config: CorpusConfig
    output: Path

    @cached_property
    def found(self) -> Raw:
        """The files of the corpus. Raises InputError if there are none."""
        return find_files(self.config, self.output)

    @property
    def path(self) -> str:
        """The file or folder, absolute."""
        return str((_library_root() if self.config.path is None else Path(self.config.path).expanduser()).resolve())

    def stamp(self) -> str | None:
        """Digest of names, sizes and modification times; None if the files are no longer there."""
        try:
            return digest_json({file.name: (file.size, file.modified) for file in self.found.files})
        except InputError:
            return None

    def digest(self) -> str:
        """SHA-256 over names and contents; an unreadable file counts as unreadable."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest_json({file.name: _digest(file) for file in self.found.files})


def find_files(config: CorpusConfig, output: Path) -> Raw:
    """The files that `config` names; below a folder, `output` and hidden files and folders are passed over.

    Raises:
        InputError: nothing there, nothing supported, empty, or keys that contradict each other.
    """
    if config.source == "python-stdlib":
        if config.path is not None:
            raise InputError(
                f"corpus.path: python-stdlib reads no files of yours; to read {config.path} set corpus.source=files"
            )
        return _standard_library(output)
    if config.path is None:
        raise InputError("corpus.path: source 'files' needs a file or a folder: corpus.path=FILE_OR_FOLDER")
    path = Path(config.path).expanduser()
    try:
        return _folder(path, output) if path.is_dir() else _single_file(path)
    except OSError as error:
        raise InputError(f"corpus.path: {path}: cannot be read ({error.strerror})") from None


def _standard_library(output: Path) -> Raw:
    root = _library_root()
    found = [
        RawFile.at(root / name, name, "topics" if name == TOPICS else "text")
        for name in _names_below(root, output, skip=_NOT_STDLIB)
        if name.endswith(".py")
    ]
    if not found:
        raise InputError(
            f"corpus.source: this Python has no .py files of its library below {root}; "
            "use another interpreter, or your own text: corpus.source=files corpus.path=FILE_OR_FOLDER"
        )
    return Raw(root, tuple(found), 0)


def _library_root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _single_file(path: Path) -> Raw:
    if not path.exists():
        raise InputError(f"corpus.path: {path} does not exist")
    kind = _kind(path.name)
    if kind is None:
        raise InputError(f"corpus.path: {path}: files of this kind cannot be read; supported: {SUPPORTED}")
    if not path.is_file():
        raise InputError(f"corpus.path: {path} is neither a file nor a folder")
    with path.open("rb") as file:
        if not file.read(1):
            raise InputError(f"corpus.path: {path} is empty; give a file with text in it")
    return Raw(path, (RawFile.at(path, path.name, kind),), 0)


def _folder(path: Path, output: Path) -> Raw:
    found, ignored = [], 0
    for name in _names_below(path, output):
        file = path / name
        kind = None if any(part.startswith(".") for part in name.split("/")) else _kind(name)
        if kind is None or not file.is_file():
            ignored += 1
        else:
            found.append(RawFile.at(file, name, kind))
    if not found:
        seen = f"{ignored} of other kinds" if ignored else "no files at all"
        raise InputError(f"corpus.path: {path} holds no text to read ({seen}); supported: {SUPPORTED}")
    return Raw(path, tuple(found), ignored)


def _names_below(root: Path, output: Path, skip: frozenset[str] = frozenset()) -> list[str]:
    """Relative posix paths of all files below `root`, sorted; what we write into `output` is not raw text."""
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
