"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A .yaml file or a built-in recipe: see `neolm config recipes`.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the recipe.")
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model directory, a run, or a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Draft = Annotated[
    str | None, typer.Option(help="Speculative decoding: lookup, or a smaller model with the same vocabulary.")
]
Quantize = Annotated[str | None, typer.Option(help="int8 or int4: round the weights while they are loaded.")]
Offload = Annotated[
    str | None, typer.Option(help="disk: read the weights from disk as needed, for models larger than the memory.")
]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as stored.")]
Cluster = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Build the corpus on Ray: local, or the ray://HOST:PORT of a cluster."),
]
