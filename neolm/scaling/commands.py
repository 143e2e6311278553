"""The command `neolm plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from neolm.options import OverridesArgument, RecipeArgument


def plan(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    accelerator: Annotated[
        str | None, typer.Option(help="v100, a100-40gb, a100, h100 or h200; default: this machine.")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="Number of devices; default: those of the mesh.")] = None,
    search: Annotated[bool, typer.Option("--search", help="Find the fastest meshes of the devices that fit.")] = False,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the peak that is reached in all; default: estimated.")
    ] = None,
    efficiency: Annotated[
        float | None, typer.Option(help="Share of the peak that a device reaches while it computes; default: 0.4.")
    ] = None,
    link_bandwidth: Annotated[
        float | None, typer.Option(help="GB/s of a device to others of its node; default: the accelerator's.")
    ] = None,
    network_bandwidth: Annotated[
        float | None, typer.Option(help="GB/s of a device to other nodes; default: the accelerator's.")
    ] = None,
    node: Annotated[int | None, typer.Option(help="Devices of a node; default: 8.")] = None,
    device_tflops: Annotated[float | None, typer.Option(help="Peak of one device in TFLOP/s.")] = None,
    watts: Annotated[float | None, typer.Option(help="Mean power of one device with its share of the host.")] = None,
    pue: Annotated[
        float | None, typer.Option(help="Energy of the data centre over energy of its computers; default: 1.1.")
    ] = None,
    grid_intensity: Annotated[float | None, typer.Option(help="Kilograms of CO2e per kWh; default: 0.429.")] = None,
) -> None:
    """Plan a training: FLOPs, memory, communication, time, energy and carbon.

    The devices are divided by pretrain.parallel.tensor, pipeline, shard and context, or by --search. Reads the recipe
    and the tokenizer that it names, and starts nothing.
    """
    from neolm.core.progress import table
    from neolm.recipe import load_recipe
    from neolm.scaling.plan import assumptions
    from neolm.scaling.plan_table import plan_table, search_table
    from neolm.stages import architecture

    chosen = assumptions(
        accelerator=accelerator,
        devices=devices,
        mfu=mfu,
        efficiency=efficiency,
        link_bandwidth=link_bandwidth,
        network_bandwidth=network_bandwidth,
        node=node,
        device_tflops=device_tflops,
        watts=watts,
        pue=pue,
        grid_intensity=grid_intensity,
    )
    loaded = load_recipe(recipe, overrides or [])
    model = architecture(loaded)
    assert loaded.pretrain is not None
    print(search_table(model, loaded.pretrain, chosen) if search else table(plan_table(model, loaded.pretrain, chosen)))
    if loaded.study is not None:
        print(f"This is the recipe without its study, which has {len(loaded.study.places)} trainings.")
