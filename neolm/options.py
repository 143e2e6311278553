"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model directory, or a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Draft = Annotated[
    str | None, typer.Option(help="Guess ahead, for the same text sooner: lookup, or a small model like MODEL's.")
]
Quantize = Annotated[str | None, typer.Option(help="int8 or int4: round the weights as they are read.")]
Offload = Annotated[str | None, typer.Option(help="disk: leave the weights there; for models larger than memory.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as stored if not given.")]
