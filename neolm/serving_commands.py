"""The commands of the server: `neolm serve`, `keys` and `feedback`."""

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
        list[str], typer.Argument(metavar="MODEL...", help="Model directories or hub ids; NAME=MODEL names one.")
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not given.")] = None,
    port: Annotated[int | None, typer.Option(help="8000 if not given; 0 takes a free one.")] = None,
    keys: Annotated[str | None, typer.Option(help="File of API keys, made by `neolm keys new`.")] = None,
    memory: Annotated[float | None, typer.Option(help="GiB for all models; 80% of what is free if not given.")] = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    feedback: Annotated[str | None, typer.Option(help="Database URL for people's judgements; off takes none.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings: `neolm config serve`.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any of the settings, stronger than the file."),
    ] = None,
) -> None:
    """Serve models: OpenAI's API, and a page to meet them on."""
    from neolm.core.config import load_config
    from neolm.serving.server.settings import ServeConfig

    given = {
        "host": host,
        "port": port,
        "keys": keys,
        "memory": memory,
        "quantize": quantize,
        "dtype": dtype,
        "device": device,
        "feedback": feedback,
    }
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    checked = load_config(ServeConfig, config, [*(settings or []), *overrides])
    with _extra("serve"):
        from neolm.serving.server.run import serve as listen
    listen(models, checked)


keys_app = typer.Typer(no_args_is_help=True, help="API keys of a server.")
KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file of keys; it holds their hashes only.")]


@keys_app.command("new")
def keys_new(
    file: KeyFile,
    name: Annotated[str, typer.Argument(help="Who gets it.")],
    requests: Annotated[int | None, typer.Option(min=1, help="Requests a minute; any number if not given.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a minute; any number if not given.")] = None,
) -> None:
    """Make a key and print it: it is told only now."""
    from neolm.serving.server.keys import new_key

    print(new_key(file, name, requests, tokens))


@keys_app.command("list")
def keys_list(file: KeyFile) -> None:
    """Who has a key, and its limits."""
    from neolm.core.progress import wide_table
    from neolm.serving.server.keys import read_keys

    rows: list[tuple[str, ...]] = [("NAME", "REQUESTS A MINUTE", "TOKENS A MINUTE")]
    rows += [
        (entry.name, str(entry.requests_per_minute or "any"), str(entry.tokens_per_minute or "any"))
        for entry in read_keys(file).keys
    ]
    print(wide_table(rows))


@keys_app.command("remove")
def keys_remove(file: KeyFile, name: Annotated[str, typer.Argument(help="Whose.")]) -> None:
    """Take a key back; a server that runs refuses it from then on."""
    from neolm.serving.server.keys import remove_key

    remove_key(file, name)


feedback_app = typer.Typer(no_args_is_help=True, help="What people said of answers.")


@feedback_app.command("export")
def feedback_export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The .jsonl file to write.")],
    source: Annotated[
        str | None, typer.Option("--from", help="Database URL; the server's own file if not given.")
    ] = None,
    single: Annotated[bool, typer.Option("--ratings", help="Thumbs one by one instead of preferences.")] = False,
) -> None:
    """Write preferences: prompt, chosen, rejected."""
    with _extra("serve"):
        from neolm.serving.server.preferences import export

    print(f"{export(source, target, single)} lines", file=sys.stderr)
    print(target)


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Imports that need an extra; one line says so if it is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("neolm"):
            raise
        raise InputError(f"this needs the extra [{name}]: pip install 'neolm[{name}]' ({error})") from None
