"""Import Daft, the corpus engine, with telemetry and its progress bar disabled.

This is the only module that imports Daft. Daft runs in this process, or on Ray after `use_cluster`. Ray's workers need
NeoLM, and a file system where they see the raw text and the output directory under the same paths.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Any

from neolm.core.errors import InputError

os.environ.update(
    DO_NOT_TRACK="1",
    SCARF_NO_ANALYTICS="1",
    DAFT_ANALYTICS_ENABLED="0",
    DAFT_PROGRESS_BAR="0",
    DAFT_SHOW_QUERY_ID="0",
    RAY_USAGE_STATS_ENABLED="0",
)

import daft  # after the variables above, which Daft reads at import

__all__ = ["daft", "use_cluster"]


def use_cluster(address: str) -> None:
    """Run all that follows on Ray: `local`, with all cores of this machine, or the `ray://HOST:PORT` of a cluster.

    Ray ends with the process. The choice cannot be taken back in a process, because Daft has one runner.

    Raises:
        InputError: the address is not valid, Ray is not installed, or the cluster does not answer.
    """
    if address != "local" and not address.startswith("ray://"):
        raise InputError(f"--cluster: {address!r} is neither `local` nor the ray://HOST:PORT of a cluster")
    if importlib.util.find_spec("ray") is None:
        raise InputError("--cluster: this needs the extra [cluster]: pip install 'neolm[cluster]'")
    import ray

    local: dict[str, Any] = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == "local" else {}))
        daft.set_runner_ray()
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"--cluster: {address} cannot be used ({why[-1].strip()}). Compare the address, the versions of Python and "
            "Ray, and RAY_AUTH_MODE with those of the cluster"
        ) from None
