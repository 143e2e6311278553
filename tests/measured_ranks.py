"""Measured peak memory of trainings on several processes; run as a script, it is one rank of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from measured_memory import Case, tensor_peak

from neolm.distributed.plan import parallelism
from neolm.training.run import Parallelism

TESTS = Path(__file__).parent


def rank_peaks(cases: Sequence[Case], ranks: int) -> list[int]:
    """Peak of the bytes allocated by torch in the fullest of `ranks` processes, for each case and its plan."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as place:
        specification = json.dumps([vars(case) for case in cases])
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, specification, str(rank), str(ranks), place],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        outputs = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(said for _, said in outputs)
    return [max(peaks) for peaks in zip(*(json.loads(printed.splitlines()[-1]) for printed, _ in outputs), strict=True)]


def gather(*tensors: torch.Tensor, **options: Any) -> None:
    """Takes the memory of gloo's operation in this thread: torch's profiler misses what gloo's threads free."""
    output, own = operands(tensors, options)
    output.copy_(torch.cat([own] * (len(output) // len(own))))


def reduce_scatter(*tensors: torch.Tensor, **options: Any) -> None:
    """As `gather`; both keep numbers of this rank, which does not matter to the memory."""
    output, whole = operands(tensors, options)
    output.copy_(whole.clone()[: len(output)])


def operands(tensors: Sequence[torch.Tensor], options: dict[str, Any]) -> list[torch.Tensor]:
    """Output and input of an operation, whatever their names are in this version of torch."""
    named = sorted((name, value) for name, value in options.items() if isinstance(value, torch.Tensor))
    return [*tensors, *(value for _, value in reversed(named))]  # "output..." comes after "input..."


def main(specification: str, rank: str, ranks: str, place: str) -> None:
    """Measure as one rank; `place` is a directory of all ranks."""
    cases = [Case(**fields) for fields in json.loads(specification)]
    dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=int(rank), world_size=int(ranks))
    dist.all_gather_into_tensor = dist.all_gather_single = gather  # of FSDP alone; the names are those of two versions
    dist.reduce_scatter_tensor = dist.reduce_scatter_single = reduce_scatter
    peaks = []
    for number, case in enumerate(cases):
        torch.manual_seed(0)  # ranks that share the examples must draw the same ones
        # without the meter, whose profiler would end that of the measurement
        plan = replace(parallelism(case.config.parallel, "cpu"), meter=Parallelism().meter)
        peaks.append(tensor_peak(case, parallelism=plan, place=Path(place) / str(number)))
    print(json.dumps(peaks))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
