"""The scripts of docs/cluster.md are well-formed, and torchrun knows their options."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def check(arguments: list[str]) -> None:
    """`arguments` of torchrun start `neolm run` on two nodes."""
    known = get_args_parser().parse_args(arguments)
    assert known.module
    assert known.training_script == "neolm"
    assert known.training_script_args[0] == "run"
    assert (known.nnodes, known.nproc_per_node, known.rdzv_backend) == ("2", "8", "c10d")
    assert known.rdzv_endpoint.endswith(":29500")


def test_the_slurm_script() -> None:
    script = block("bash")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    command = script[script.index("srun torchrun") :].replace("\\\n", " ").replace("$SLURM_NNODES", "2")
    check(shlex.split(command)[2:])


def test_the_kubernetes_manifest() -> None:
    service, job = yaml.safe_load_all(block("yaml"))
    assert service["spec"] == {"clusterIP": "None", "selector": {"job-name": job["metadata"]["name"]}}
    template = job["spec"]["template"]["spec"]
    (container,) = template["containers"]
    assert container["command"][0] == "torchrun"
    check([*container["command"][1:], *container["args"]])
    assert f"{job['metadata']['name']}-0.{template['subdomain']}:29500" in container["args"]
    assert {volume["name"] for volume in template["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert template["subdomain"] == service["metadata"]["name"]


@pytest.mark.parametrize("shape", re.findall(r"^torchrun (.*)$", PAGE, re.MULTILINE))
def test_the_other_commands_of_the_page(shape: str) -> None:
    known = get_args_parser().parse_args(shlex.split(shape))
    assert known.module
    assert known.training_script == "neolm"
