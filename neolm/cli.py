"""The command line: one table of commands, each a typed function that imports what it needs when it runs.

Exit codes: 0 done, 1 failed, 2 bad input (one line says what, where and how to mend it), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from neolm.core.errors import InputError, NeoLMError
from neolm.options import Device, Draft, Dtype, ModelArgument, Offload, Quantize
from neolm.serving_commands import feedback_app, keys_app, serve

app = typer.Typer(
    name="neolm",
    help="NeoLM: raw text in; a trained, measured and speaking language model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
corpus_app = typer.Typer(no_args_is_help=True, help="Raw text to clean, documented documents.")
tokenizer_app = typer.Typer(no_args_is_help=True, help="Learn a vocabulary; show a text's tokens.")
app.add_typer(corpus_app, name="corpus")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(keys_app, name="keys")
app.add_typer(feedback_app, name="feedback")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A .yaml file, or a built-in one: see `neolm config recipes`.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings stronger than the recipe's.")
]


@app.command()
def run(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Raw text to a trained, measured model and a report."""
    from neolm.pipeline import run as run_recipe

    output = run_recipe(recipe, overrides or [])
    print(output / "report.html" if (output / "report.html").exists() else output)


@corpus_app.command("build")
def corpus_build(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Build the documents of a recipe."""
    from neolm.pipeline import run as run_recipe

    print(run_recipe(recipe, overrides or [], until="corpus") / "corpus")


@tokenizer_app.command("train")
def tokenizer_train(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Learn the vocabulary of a recipe, after its corpus."""
    from neolm.pipeline import run as run_recipe

    print(run_recipe(recipe, overrides or [], until="tokenizer") / "tokenizer")


@tokenizer_app.command("encode")
def tokenizer_encode(
    tokenizer: Annotated[str, typer.Argument(metavar="TOKENIZER", help="A model or tokenizer directory, or its file.")],
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
) -> None:
    """Print the tokens of a text, an id and its text a line."""
    from neolm.tokenizer.tokenizer import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    for token_id in loaded.encode_bytes(_text(text)):
        print(f"{token_id}\t{json.dumps(loaded.decode([token_id]), ensure_ascii=False)}")


@app.command()
def pretrain(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes; start nothing.")] = False,
    accelerator: Annotated[
        str | None, typer.Option(help="Dry run: v100, a100, h100 or h200; this machine if not given.")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="Dry run: how many of them; 1 if not given.")] = None,
    mfu: Annotated[float | None, typer.Option(help="Dry run: share of the peak that is reached; 0.4.")] = None,
    device_tflops: Annotated[float | None, typer.Option(help="Dry run: peak of one, in TFLOP/s.")] = None,
    watts: Annotated[float | None, typer.Option(help="Dry run: mean power of one, with its share of the host.")] = None,
    pue: Annotated[float | None, typer.Option(help="Dry run: the site's energy over its computers'; 1.1.")] = None,
    grid_intensity: Annotated[float | None, typer.Option(help="Dry run: kg CO2e a kWh; 0.429.")] = None,
) -> None:
    """Train a recipe's model, or resume its training.

    Corpus and tokenizer are made first if need be; an unfinished run goes on by itself.
    """
    planned = {
        "accelerator": accelerator,
        "devices": devices,
        "mfu": mfu,
        "device_tflops": device_tflops,
        "watts": watts,
        "pue": pue,
        "grid_intensity": grid_intensity,
    }
    if dry_run:
        from neolm.core.progress import table
        from neolm.dry_run import dry_run as plan
        from neolm.training.plan import assumptions

        print(table(plan(recipe, overrides or [], assumptions(**planned))))
        return
    for key, value in planned.items():
        if value is not None:
            raise InputError(f"--{key.replace('_', '-')}: it says what to plan with; give it with --dry-run")
    from neolm.pipeline import run as run_recipe

    print(run_recipe(recipe, overrides or [], until="model") / "model")


@app.command()
def evaluate(
    model: ModelArgument,
    text: Annotated[
        str | None, typer.Option(help="A file or folder to measure on; the held-out text of its run if not given.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As `neolm config evaluate` lists them.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file too.")] = None,
    quantize: Quantize = None,
) -> None:
    """Measure a model, beside what compressors reach.

    Loss, token and word perplexity and bits per byte, with intervals.
    """
    from neolm.evaluation.command import evaluate_model

    scores = evaluate_model(model, text, settings or [], quantize)
    if output is not None:
        from neolm.core.files import write_json

        write_json(output, scores)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Runs' output directories, finished or not.")
    ],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
) -> None:
    """Draw runs together and say what they differ in.

    A table, the settings that differ, and one HTML page with their curves.
    """
    from neolm.report.compare import compare_runs

    print(compare_runs(runs, output))


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to write at the most.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token; 1: as the model believes.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the likeliest tokens that reach this share.")
    ] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: shun tokens that were there before.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; may be given several times.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    ignore_eos: Annotated[bool, typer.Option(help="Go on after an end of text.")] = False,
    draft: Draft = None,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
    offload: Offload = None,
) -> None:
    """Continue a text; it is printed as it is written."""
    from neolm.generation.config import generation_config
    from neolm.generation.generate import stream

    settings = generation_config(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        stop=stop or [],
        seed=seed,
        ignore_eos=ignore_eos,
    )
    loaded, tokenizer = _load(model, device, dtype, quantize, offload)
    text = _text(prompt).decode("utf-8", "replace")
    pieces = stream(loaded, tokenizer, text, settings, _load_draft(draft, device, tokenizer))
    for piece in itertools.chain([text], pieces, ["\n"]):
        _write(piece)


@app.command()
def chat(
    model: ModelArgument,
    raw: Annotated[bool, typer.Option("--raw", help="Continue what is typed, without a conversation's form.")] = False,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token; 1: as the model believes.")] = 0.8,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the likeliest tokens that reach this share.")
    ] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of one answer at the most.")] = 256,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answers.")] = None,
    draft: Draft = None,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
    offload: Offload = None,
) -> None:
    """Talk with a model."""
    from neolm.generation.chat import Session, converse
    from neolm.generation.config import generation_config

    settings = generation_config(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=[]
    )
    from neolm.models.hf import model_directory
    from neolm.tokenizer.chat import load_chat_template

    loaded, tokenizer = _load(model, device, dtype, quantize, offload)
    template = load_chat_template(model_directory(model), tokenizer)
    session = Session(loaded, tokenizer, settings, raw, _load_draft(draft, device, tokenizer), template)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - line editing at the prompt, where the platform has it
    converse(session, input, _write)


def _write(text: str) -> None:
    print(text, end="", flush=True)


app.command()(serve)


@app.command("import")
def import_model(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A Hugging Face directory, or a hub id.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The directory to write.")],
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Bring in a published GPT-2, GPT-Neo or GPT-NeoX.

    The result is a model directory with tokenizer and manifest.
    """
    from neolm.exchange import import_directory

    print(import_directory(source, target, dtype, quantize))


@app.command()
def export(
    model: ModelArgument,
    target: Annotated[Path, typer.Argument(metavar="DST", help="The directory to write.")],
    to: Annotated[
        Literal["hf", "gguf"],
        typer.Option(help="hf: a Hugging Face directory with safetensors; gguf: one file for llama.cpp."),
    ] = "hf",
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Write a model for other software."""
    from neolm.exchange import export_directory

    print(export_directory(model, target, dtype, quantize, to))


@app.command()
def show(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or the directory of one of its stages.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its recorded digest.")] = False,
) -> None:
    """What a directory was made from, back to raw text."""
    from neolm.show import show as describe

    print(describe(directory, verify))


@app.command()
def config(
    command: Annotated[str, typer.Argument(help="A section such as pretrain, run (all), presets or recipes.")] = "run",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")] = False,
) -> None:
    """Every setting, its type, default and meaning.

    `neolm config presets` prints the published models, `neolm config recipes` the built-in recipes.
    """
    from neolm.core.progress import table, wide_table
    from neolm.describe import presets_table, recipes_table, section_settings

    if schema:
        from neolm.recipe import Recipe

        print(json.dumps(Recipe.model_json_schema(), indent=2))
    elif command == "presets":
        print(table(presets_table()))
    elif command == "recipes":
        print(table(recipes_table()))
    else:
        rows = [(s.key, s.type, s.default, s.unit, s.meaning) for s in section_settings(command)]
        print(wide_table([("KEY", "TYPE", "DEFAULT", "UNIT", "MEANING"), *rows]))


@app.command()
def doctor() -> None:
    """What this machine can do and what will be used.

    Also what is missing.
    """
    from neolm.core.progress import table
    from neolm.describe import machine_report

    print(table(machine_report()))


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        import neolm

        print(f"neolm {neolm.__version__}")
        raise typer.Exit


def main() -> None:
    """The `neolm` command."""
    for stream in (sys.stdout, sys.stderr):  # a model may write what the terminal's encoding cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except NeoLMError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except SystemExit as end:
        if end.code == 130:  # typer has caught the interrupt, and says nothing
            _fail("interrupted", 130)
        raise
    except MemoryError:
        _fail("out of memory; a smaller micro_batch_size or model needs less", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(message: str, code: int) -> None:
    print(f"neolm: {message}", file=sys.stderr)
    sys.exit(code)


def _load(
    model: str, device: str, dtype: str | None = None, quantize: str | None = None, offload: str | None = None
) -> tuple[Any, Any]:
    from neolm.core.device import choose_device
    from neolm.models.hf import load_model, model_directory
    from neolm.tokenizer.tokenizer import load_tokenizer

    directory = model_directory(model)
    loaded = load_model(directory, choose_device(device).value, dtype, quantize, offload)
    return loaded, load_tokenizer(directory)


def _load_draft(draft: str | None, device: str, tokenizer: Any) -> Any:
    """What `--draft` names: a model as it is stored, which must have the vocabulary of `tokenizer`; lookup; nothing."""
    if draft is None or draft == "lookup":
        return draft
    from neolm.generation.speculative import check_vocabulary

    loaded, own = _load(draft, device)
    check_vocabulary(tokenizer, own)
    return loaded


def _text(argument: str) -> bytes:
    """The argument's text, or standard input's for `-`."""
    return sys.stdin.buffer.read() if argument == "-" else argument.encode("utf-8", "surrogateescape")
