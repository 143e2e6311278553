"""The raw files of a corpus in a fixed order, with the digest of their contents."""

from __future__ import annotations

import itertools
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from neolm.core.chunks import COMPRESSIONS
from neolm.core.errors import InputError, SettingError
from neolm.core.files import digest_file, digest_json, expanded
from neolm.core.manifest import read_manifest
from neolm.core.text_encoding import storable
from neolm.corpus.code import LANGUAGES, licences_of_folders, nearest_licence
from neolm.corpus.config import CorpusConfig
from neolm.corpus.remote import RemoteFile, download, fixed_part, is_glob, is_remote, list_remote, name_pattern
from neolm.formats.pages import INSTALL, is_installed

KINDS = {".txt": "text", ".md": "text", ".py": "text", ".jsonl": "json", ".parquet": "parquet"}
KINDS |= {".html": "html", ".htm": "html", ".warc": "warc", ".wet": "warc", ".wat": "warc", ".xml": "wiki"}
KINDS |= {".csv": "csv", ".tsv": "csv", ".mbox": "mbox", ".tar": "tar", ".zip": "zip"}
ARCHIVES = frozenset({"tar", "zip"})
_NOT_COMPRESSED = (".parquet", ".zip")
"""The format of a file by its suffix. All but Parquet may be compressed."""
SUPPORTED = f"{', '.join(KINDS)}; all but .parquet and .zip also {', '.join(COMPRESSIONS)}"

PYTHON_LICENCE = "PSF-2.0"
TOPICS = "pydoc_data/topics.py"  # one long dict; each of its texts becomes a document
PAGE_KINDS = frozenset({"html", "warc", "wiki"})
IGNORED_KINDS_SHOWN = 5
LINKS_SHOWN = 3
_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class RawFile:
    """A file to read: `name` is its path relative to the corpus, `kind` its format (one of KINDS, or topics).

    Format and compression belong to the name: the file may be a link to one without a suffix, as in a cache.
    """

    path: str
    name: str
    kind: str
    size: int
    modified: int
    """Modification time in nanoseconds."""
    compression: str = ""
    """One of COMPRESSIONS or empty."""
    data: bytes | None = None
    """The content of a member of an archive."""
    licence: str = ""
    """The licence that is known of the file; empty: none is."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the metadata of its documents say, such as the URL."""
    failure: str = ""
    """Why it could not be downloaded."""

    @property
    def content(self) -> Path | bytes:
        """Where the content is, or the content itself."""
        return Path(self.path) if self.data is None else self.data

    @classmethod
    def at(cls, path: Path, name: str, kind: str) -> RawFile:
        """The file at `path`."""
        status = path.stat()
        return cls(str(path.resolve()), name, kind, status.st_size, status.st_mtime_ns, suffixes(name)[1])

    @classmethod
    def downloaded(cls, file: RemoteFile, code: bool) -> RawFile:
        """A file that was behind a URL."""
        kind, suffix, failure = kind_of(file.name, code) or "text", suffixes(file.name)[1], file.failure
        url = (
            "url" if kind in ("text", "html", "code") else "file_url"
        )  # a file with many documents is none of their pages
        facts = {url: file.url, "retrieved": file.retrieved}
        return cls(file.path, file.name, kind, file.size or 0, 0, suffix, None, file.licence, facts, failure)


@dataclass(frozen=True)
class Links:
    """The links to folders and to nothing that were found. Links to files are read like files."""

    followed: tuple[str, ...] = ()
    """Links to folders whose files are read, as `name -> target`."""
    repeated: int = 0
    """Linked folders that are read already, for example because they link in a circle."""
    dangling: tuple[str, ...] = ()
    """Links to nothing, as `name -> target`."""

    def describe(self) -> list[str]:
        """One sentence for each kind of links that was found."""
        found = []
        if self.followed:
            found.append(f"links to folders were followed: {_some(self.followed)}")
        if self.repeated:
            found.append(f"linked folders that were read already: {self.repeated:,}")
        if self.dangling:
            found.append(f"links to files that do not exist were left out: {_some(self.dangling)}")
        return found


def _some(names: Sequence[str]) -> str:
    rest = len(names) - LINKS_SHOWN
    return storable(", ".join(names[:LINKS_SHOWN])) + (f" and {rest:,} more" if rest > 0 else "")


@dataclass(frozen=True)
class Raw:
    """The files to read, sorted by name, and the numbers of ignored files by kind."""

    location: Path | str
    files: tuple[RawFile, ...]
    ignored: Mapping[str, int]
    links: Links = Links()
    remote: tuple[RemoteFile, ...] = ()
    """The files behind URLs, which are not among `files` until they are downloaded."""


@dataclass(frozen=True)
class RawText:
    """The raw text of a corpus as the input of a stage. Files are listed and read only when necessary."""

    config: CorpusConfig
    output: Path

    @cached_property
    def found(self) -> Raw:
        """The files of the corpus. Raises SettingError if there are none."""
        return find_files(self.config, self.output)

    @cached_property
    def fetched(self) -> Raw:
        """The files of the corpus; those behind URLs are downloaded to `output/downloads` unless they are there."""
        if not self.found.remote:
            return self.found
        remote = tuple(download(self.found.remote, self.output / "downloads"))
        code = self.config.code is not None
        files = [*self.found.files, *(RawFile.downloaded(file, code) for file in remote)]
        return replace(self.found, files=tuple(sorted(files, key=lambda file: file.name)), remote=remote)

    @property
    def path(self) -> str:
        """The files, folders and URLs; absolute."""
        given = _given(self.config) or (str(_library_root()),)
        return ", ".join(one if is_remote(one) else str(expanded(one).resolve()) for one in given)

    def stamp(self) -> str | None:
        """Digest of names, sizes and modification times; None if the files are no longer there."""
        try:
            remote = self.__dict__.get("fetched", self.found).remote  # what cannot be downloaded has another stamp
            there = {file.name: (file.version, file.failure) for file in remote}
            return digest_json({file.name: (file.size, file.modified) for file in self.found.files} | there)
        except InputError:
            return None

    def digest(self) -> str:
        """SHA-256 of the names and contents of the files."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        remote = {file.name: file.digest for file in self.fetched.remote}
        return digest_json({file.name: remote.get(file.name) or _digest(file) for file in self.fetched.files})


def find_files(config: CorpusConfig, output: Path) -> Raw:
    """The files that `config` names. In a folder, `output` and hidden files and folders are ignored.

    The name of a file is its path below the folder; in a list of paths, the end of the folder's path comes before.

    Raises:
        SettingError: a path does not exist, has no supported file or is empty, the settings contradict each other, or
            no URL can be reached.
    """
    if config.source == "python-stdlib":
        if config.path is not None:
            raise SettingError(
                "path", f"corpus.source=python-stdlib has no path; set corpus.source=files to read {config.path}"
            )
        return _standard_library(output)
    given = _given(config)
    if not given:
        raise SettingError("path", "corpus.source=files needs a file or a folder: corpus.path=FILE_OR_FOLDER")
    if config.path == given[0] and not is_remote(given[0]):
        return _local(given[0], output, config.code is not None)
    roots = {one: _root(expanded(one)) for one in sorted(given) if not is_remote(one)}
    # A link to a file keeps its name, which has the suffix of the format.
    roots = {one: path.resolve() if path.is_dir() else path.parent.resolve() / path.name for one, path in roots.items()}
    tell_apart = range(1, max((len(root.parts) for root in roots.values()), default=1) + 1)
    parts = next(n for n in tell_apart if len({root.parts[-n:] for root in roots.values()}) == len({*roots.values()}))
    raws = [
        (root, _local(one, output, config.code is not None))
        for one, root in sorted(roots.items(), key=lambda item: -len(item[1].parts))
    ]
    files: dict[str, RawFile] = {}
    for root, raw in raws:
        label = PurePosixPath(*root.parts[-parts:])
        for file in raw.files:
            name = label / file.name if root.is_dir() else label
            files.setdefault(file.path, replace(file, name=str(name)))
    remote, ignored = _remote([one for one in given if is_remote(one)], config.code is not None, bool(files))
    ignored = sum((Counter(raw.ignored) for _, raw in raws), start=ignored)
    links = Links(
        tuple(itertools.chain(*(raw.links.followed for _, raw in raws))),
        sum(raw.links.repeated for _, raw in raws),
        tuple(itertools.chain(*(raw.links.dangling for _, raw in raws))),
    )
    in_order = sorted(files.values(), key=lambda file: file.name)
    return Raw(", ".join(given), tuple(in_order), ignored, links, remote)


def _given(config: CorpusConfig) -> tuple[str, ...]:
    return (config.path,) if isinstance(config.path, str) else config.path or ()


def _remote(urls: Sequence[str], code: bool, others: bool) -> tuple[tuple[RemoteFile, ...], Counter[str]]:
    """The files behind `urls`, and the numbers of those that are not read. `others`: there are other files to read."""
    listed = {file.name: file for file in list_remote(urls)}.values()
    kinds = {file.name: file.failure or kind_of(file.name, code) for file in listed}
    hidden = {name for name in kinds if name.rpartition("/")[2].startswith(".")}
    found = tuple(file for file in listed if kinds[file.name] and file.name not in hidden)
    ignored = Counter(
        storable(suffixes(n)[0]) or "without extension" for n in kinds if not kinds[n] and n not in hidden
    )
    failed = [f"{file.name} cannot be read: {file.failure}" for file in found if file.failure]
    if len(failed) == len(found) and not others and urls:
        seen = describe_ignored(ignored) if ignored else "no files"
        raise SettingError(
            "path", _some(failed) or f"{', '.join(urls)}: nothing to read ({seen}); supported: {SUPPORTED}"
        )
    _require_packages([kind_of(file.name) or "" for file in found])
    return found, ignored + Counter({"hidden": len(hidden)})


def _root(path: Path) -> Path:
    """The folder of a glob, or the path itself."""
    return Path(path.anchor, fixed_part(str(path))) if is_glob(str(path)) and not path.exists() else path


def _local(given: str, output: Path, code: bool) -> Raw:
    """The files of a file, a folder or a glob."""
    path = expanded(given)
    try:
        if _root(path) != path:
            return _folder(path, output, code, name_pattern(str(path)))
        return _folder(path, output, code) if path.is_dir() else _single_file(path, code)
    except OSError as error:
        raise SettingError("path", f"{path}: cannot be read ({error.strerror})") from None


def _standard_library(output: Path) -> Raw:
    root = _library_root()
    found = [
        RawFile.at(root / name, name, "topics" if name == TOPICS else "text")
        for name in _Tree(root, output, skip=_NOT_STDLIB).names
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


def _single_file(path: Path, code: bool) -> Raw:
    if not path.exists():
        missing = f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "does not exist"
        raise SettingError("path", f"{path} {missing}")
    kind = kind_of(path.name, code)
    if kind is None:
        raise SettingError("path", f"{path}: files of this kind cannot be read; supported: {SUPPORTED}")
    if not path.is_file():
        raise SettingError("path", f"{path} is neither a file nor a folder")
    with path.open("rb") as file:
        if not file.read(1):
            raise SettingError("path", f"{path} is empty; give a file with text in it")
    _require_packages([kind])
    return Raw(path, (RawFile.at(path, path.name, kind),), {})


def _folder(path: Path, output: Path, code: bool, pattern: re.Pattern[str] | None = None) -> Raw:
    """The files of a folder, or those whose path matches the pattern of a glob."""
    found, dangling = [], []
    root = _root(path)
    tree = _Tree(root, output)
    ignored: Counter[str] = Counter()
    folders = licences_of_folders(root, tree.names) if code else {}
    manifest = read_manifest(root)
    is_corpus = manifest is not None and manifest.stage == "corpus"
    for name in tree.names:
        file, kind = root / name, kind_of(name, code)
        if pattern is not None and not pattern.fullmatch(str(file)):
            continue
        if is_hidden(name):
            ignored["hidden"] += 1
        elif is_corpus and name.startswith("rejected/"):
            ignored["of rejected documents"] += 1
        elif file.is_symlink() and not file.exists():
            ignored["linked to nothing"] += 1
            dangling.append(f"{name} -> {file.readlink()}")
        elif kind is None:
            ignored[storable(file.suffix.lower()) or "without extension"] += 1
        elif not file.is_file():
            ignored["not a regular file"] += 1
        else:
            raw, stated = RawFile.at(file, name, kind), nearest_licence(name, folders)
            found.append(replace(raw, licence=stated[0], facts={"licence_from": stated[1]}) if stated else raw)
    if not found:
        seen = describe_ignored(ignored) if ignored else "no files"
        raise SettingError("path", f"{path} has no text to read ({seen}); supported: {SUPPORTED}")
    _require_packages([file.kind for file in found])
    return Raw(path, tuple(found), ignored, Links(tuple(tree.followed), tree.repeated, tuple(dangling)))


def _require_packages(kinds: Iterable[str]) -> None:
    if not PAGE_KINDS.isdisjoint(kinds) and not is_installed():
        raise SettingError("path", f"reading web pages {INSTALL}")


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """`ignored 12 files: 9 .png, 2 .zip, 1 without extension`, the most frequent kinds first."""
    number = sum(ignored.values())
    kinds = Counter(ignored).most_common(IGNORED_KINDS_SHOWN)
    shown = [f"{files:,} {kind}" for kind, files in kinds]
    rest = number - sum(files for _, files in kinds)
    shown += [f"{rest:,} of other kinds"] if rest else []
    return f"ignored {number:,} {'file' if number == 1 else 'files'}: {', '.join(shown)}"


class _Tree:
    """The files below a folder and the folders that it links to, each folder once, without `output`.

    Folders are told apart by device and inode, so that links in a circle end. The folders that lie below `root` come
    first, then those behind links.
    """

    def __init__(self, root: Path, output: Path, skip: frozenset[str] = frozenset()) -> None:
        self._root, self._skip = root.resolve(strict=True), skip
        self._output = _identity(output) if output.is_dir() else None
        self._seen: set[tuple[int, int]] = set()
        self._links: list[Path] = []
        self.names: list[str] = []
        """Relative POSIX paths of the files, sorted."""
        self.followed: list[str] = []
        """Links to folders, as `name -> target`."""
        self.repeated = 0
        """Folders behind links that were not read again."""
        self._walk(self._root)
        while self._links:
            link = self._links.pop(0)
            if _identity(link) in self._seen:
                self.repeated += 1
            elif _identity(link) != self._output:
                self.followed.append(f"{self._name(link)} -> {link.resolve()}")
                self._walk(link)
        self.names.sort()

    def _walk(self, start: Path) -> None:
        for directory, folders, files in os.walk(start, onerror=_raise):
            here = Path(directory)
            identity = _identity(here)
            if identity in self._seen or identity == self._output:
                self.repeated += identity != self._output
                folders.clear()
                continue
            self._seen.add(identity)
            self.names += [self._name(here / name) for name in files]
            links = {name for name in folders if (here / name).is_symlink()}
            self._links += [here / name for name in sorted(links) if not is_hidden(self._name(here / name))]
            folders[:] = [name for name in folders if name not in self._skip | links]

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def is_hidden(name: str) -> bool:
    """Whether a part of the relative path `name` starts with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def _raise(error: OSError) -> None:
    raise error


def suffixes(name: str) -> tuple[str, str]:
    """The suffixes of the format and of the compression."""
    path = PurePosixPath((urlsplit(name).path if is_remote(name) else name).lower())
    packed = path.suffix in COMPRESSIONS
    return (PurePosixPath(path.stem).suffix if packed else path.suffix), (path.suffix if packed else "")


def kind_of(name: str, code: bool = False) -> str | None:
    """The format of a file by its name; None: it is not read. `code`: source code is read as such."""
    suffix, compression = suffixes(name)
    if code and suffix in LANGUAGES:
        return "code"
    return None if compression and suffix in _NOT_COMPRESSED else KINDS.get(suffix)


def _digest(file: RawFile) -> str:
    try:
        return digest_file(Path(file.path))
    except OSError:
        return "unreadable"
