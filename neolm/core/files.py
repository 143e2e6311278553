"""Digests, atomic writes, and disk errors as one clear line."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from neolm.core.errors import InputError, StorageError

if TYPE_CHECKING:
    from torch import Tensor


MAX_JSON_BYTES = 2**24
"""Size limit of a JSON file that is read whole; its values take up to about 20 times as much memory."""


def expanded(path: str | Path) -> Path:
    """`path` with `~` expanded; `~name` is a file name if there is no such user, where pathlib raises RuntimeError."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def digest_json(value: Any) -> str:
    """SHA-256 of a value in canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_path(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder."""
    if path.is_file():
        return digest_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return digest_json({p.relative_to(path).as_posix(): digest_file(p) for p in files})


def read_json(path: Path, limit: int | None = None) -> dict[str, Any]:
    """The object in a JSON file. A byte order mark is ignored.

    Raises:
        InputError: the file cannot be read, has more than `limit` bytes (default: MAX_JSON_BYTES), or holds something
            else than a JSON object.
    """
    value = read_json_value(path, limit)
    if not isinstance(value, dict):
        raise InputError(f"{path}: a JSON object is expected here, this is a {type(value).__name__}")
    return value


def read_json_value(path: Path, limit: int | None = None) -> Any:
    """The value in a JSON file, of any type. See `read_json`."""
    limit = MAX_JSON_BYTES if limit is None else limit
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'not a file' if path.exists() else 'there is no such file'}")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > limit:
        raise InputError(f"{path}: more than {limit:,} bytes, which is too large for a JSON file of this kind")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{path}: not valid JSON ({reason})") from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader finds the old file or the new one."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n"
    try:
        write_text(path, text)
    except UnicodeEncodeError:  # UTF-8 cannot hold half a character, an escape can
        write_text(path, json.dumps(jsonable(value), indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with replacement(path) as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def replacement(path: Path) -> Iterator[BinaryIO]:
    """A temporary file in the same directory, flushed to disk and renamed to `path` at the end of the block."""
    temporary = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, FileNotFoundError):  # no such directory, or a file system such as /proc
                raise InputError(f"{path}: cannot be written") from None
            raise


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file and flush it to disk, with the usual permissions of a new file.

    Raises:
        OSError: the error of the disk, which safetensors reports as text only.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()  # applies the umask, which cannot be read without changing it for other threads
    mode = path.stat().st_mode
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        number = str(error).rpartition("os error ")[2].rstrip(')" ')  # `... (os error 28)`
        if number.isdigit():
            raise OSError(int(number), os.strerror(int(number)), str(path)) from None
        raise
    path.chmod(stat.S_IMODE(mode))
    sync_file(path)


def sync_file(path: Path) -> None:
    """Flush the contents of a file to disk, whoever wrote them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Flush a directory, so that a rename in it survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one clear error message."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            existing = next(p for p in (path, *path.parents) if p.exists())
            free = shutil.disk_usage(existing).free
            raise StorageError(
                f"{path}: the disk is full ({free / 2**20:.0f} MiB free). "
                "Earlier results are intact: free some space and run the same command again"
            ) from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            raise InputError(f"{error.filename or path}: cannot be written ({error.strerror})") from None
        raise


def check_output_file(path: Path, example: str, kind: str, mark: str) -> None:
    """Refuse to write `path` if it is a directory, or a file whose first characters do not contain `mark`."""
    if path.is_dir():
        raise InputError(f"{path}: this is a directory. Give a file such as {path / example}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no such directory as {path.parent}")
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            start = file.read(1000)
        if start and mark not in start:
            raise InputError(f"{path}: this is not {kind}, and it was not changed. Give another file")


def remove(path: Path) -> None:
    """Remove a file, a link (not its target) or a directory, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def jsonable(value: Any) -> Any:
    """`value` with mappings, sequences and paths converted to JSON types."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [jsonable(item) for item in value]
    return value


def filled(mapping: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`mapping` with the keys of nested `defaults` that it lacks."""
    found = {**defaults, **mapping}
    for key, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(found[key], Mapping):
            found[key] = filled(found[key], default)
    return found


def differences_among(mappings: Sequence[Mapping[str, Any]], prefix: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """`(dotted key, value in each mapping)` wherever nested mappings disagree; None where a mapping lacks the key."""
    for key in dict.fromkeys(key for mapping in mappings for key in mapping):
        values = tuple(mapping.get(key) for mapping in mappings)
        nested = [value for value in values if isinstance(value, Mapping)]
        if len(nested) == len(values):
            yield from differences_among(nested, f"{prefix}{key}.")
        elif any(value != values[0] for value in values):
            yield f"{prefix}{key}", values
