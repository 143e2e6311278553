"""The command line: one table of commands. Each command imports what it needs when it runs.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from neolm import commands
from neolm.core.errors import InputError, NeoLMError
from neolm.core.ranks import ranks_in_environment
from neolm.corpus.commands import inspect
from neolm.evaluation.commands import evaluate
from neolm.finetuning.commands import finetune
from neolm.generation.commands import chat, generate
from neolm.moderation.commands import moderate
from neolm.prediction.commands import decide, predict
from neolm.report.commands import compare
from neolm.scaling.commands import plan
from neolm.serving.commands import feedback_export, keys_list, keys_new, keys_remove, serve
from neolm.tokenizer.commands import encode

GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "corpus": (
        "Build documents from raw text; look into them; take some back.",
        {
            "build": commands.corpus_build,
            "inspect": inspect,
            "drop": commands.corpus_drop,
            "train-filter": commands.corpus_train_filter,
        },
    ),
    "tokenizer": ("Train a tokenizer; print tokens.", {"train": commands.tokenizer_train, "encode": encode}),
    "keys": ("Manage the API keys of a server.", {"new": keys_new, "list": keys_list, "remove": keys_remove}),
    "feedback": ("Export the feedback on a server's answers.", {"export": feedback_export}),
}
COMMANDS: dict[str, Callable[..., None]] = {
    "run": commands.run,
    "pretrain": commands.pretrain,
    "finetune": finetune,
    "plan": plan,
    "evaluate": evaluate,
    "compare": compare,
    "predict": predict,
    "moderate": moderate,
    "decide": decide,
    "generate": generate,
    "chat": chat,
    "serve": serve,
    "import": commands.import_model,
    "export": commands.export_model,
    "show": commands.show,
    "config": commands.config,
    "doctor": commands.doctor,
}


PARALLEL = ("run", "pretrain", "finetune", "predict", "evaluate")
"""Commands that torchrun may start in several processes."""


def _app(help_text: str) -> typer.Typer:
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _app("NeoLM: train, evaluate, document and serve language models, starting from raw text.")
for name, (help_text, members) in GROUPS.items():
    group = _app(help_text)
    for member, function in members.items():
        group.command(member)(function)
    app.add_typer(group, name=name)
for name, function in COMMANDS.items():
    app.command(name)(function)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    command = context.invoked_subcommand
    if command and command not in PARALLEL and (ranks := ranks_in_environment()) > 1:
        raise InputError(
            f"neolm {command} runs in one process, not in {ranks}: start it without torchrun. "
            f"Commands for several processes are {', '.join(PARALLEL)}"
        )
    if version:
        import neolm

        print(f"neolm {neolm.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command `neolm`."""
    for stream in (sys.stdout, sys.stderr):  # models can generate characters that the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except NeoLMError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except SystemExit as end:
        if end.code == 130:  # typer has caught the interrupt and printed nothing
            _fail("interrupted", 130)
        raise
    except MemoryError:
        _fail("out of memory. A smaller micro_batch_size or a smaller model needs less", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(message: str, code: int) -> None:
    print(f"neolm: {message}", file=sys.stderr)
    sys.exit(code)
