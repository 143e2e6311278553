"""The commands of the server: `neolm serve`, `neolm keys` and `neolm feedback`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from neolm.core.errors import InputError
from neolm.options import Dtype, Quantize


def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Model directories or hub ids; NAME=MODEL sets the name.")
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8000; 0 chooses a free one.")] = None,
    keys: Annotated[str | None, typer.Option(help="File of API keys, made by `neolm keys new`.")] = None,
    memory: Annotated[float | None, typer.Option(help="GiB for all models; default 80% of the free memory.")] = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    moderation: Annotated[str | None, typer.Option(help="File of a moderation policy for prompts and answers.")] = None,
    feedback: Annotated[str | None, typer.Option(help="Database URL for feedback; off collects none.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings: see `neolm config serve`.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; replaces that of the file.")
    ] = None,
) -> None:
    """Serve models with OpenAI's API and a web page."""
    from neolm.core.config import load_config
    from neolm.serving.server.settings import ServeConfig

    given = {name: value for name, value in locals().items() if name in ServeConfig.model_fields and value is not None}
    stored = load_config(ServeConfig, config, settings or []).model_dump(exclude_unset=True)
    checked = load_config(ServeConfig, stored, given)
    with _serve_extra():
        from neolm.serving.server.main import serve as serve_models
    serve_models(models, checked)


KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file of keys; it contains only their hashes.")]


def keys_new(
    file: KeyFile,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the owner.")],
    requests: Annotated[int | None, typer.Option(min=1, help="Requests per minute; default: no limit.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per minute; default: no limit.")] = None,
) -> None:
    """Make a key and print it; it cannot be printed again."""
    from neolm.serving.server.keys import new_key

    print(new_key(file, name, requests, tokens))


def keys_list(file: KeyFile) -> None:
    """List the owners of keys and their limits."""
    from neolm.core.progress import wide_table
    from neolm.serving.server.keys import read_keys

    rows: list[tuple[str, ...]] = [("NAME", "REQUESTS PER MINUTE", "TOKENS PER MINUTE")]
    rows += [
        (entry.name, str(entry.requests_per_minute or "any"), str(entry.tokens_per_minute or "any"))
        for entry in read_keys(file).keys
    ]
    print(wide_table(rows))


def keys_remove(file: KeyFile, name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the owner.")]) -> None:
    """Remove a key; a running server refuses it from then on."""
    from neolm.serving.server.keys import remove_key

    remove_key(file, name)


def feedback_export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The .jsonl file to write.")],
    source: Annotated[str | None, typer.Option("--from", help="Database URL; default: the server's own file.")] = None,
    single: Annotated[bool, typer.Option("--ratings", help="Write single ratings instead of preferences.")] = False,
) -> None:
    """Write feedback as preferences: prompt, chosen, rejected."""
    with _serve_extra():
        from neolm.serving.server.preferences import export

    print(f"{export(source, target, single)} lines", file=sys.stderr)
    print(target)


@contextlib.contextmanager
def _serve_extra() -> Iterator[None]:
    """Imports that need the extra [serve]; the error says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("neolm"):
            raise
        raise InputError(f"this needs the extra [serve]: pip install 'neolm[serve]' ({error})") from None
