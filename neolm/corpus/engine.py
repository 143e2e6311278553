"""Import Daft, the corpus engine, with telemetry and its progress bar disabled.

This is the only module that imports Daft. Daft runs in the process unless the user chooses Ray (`DAFT_RUNNER=ray` or
`daft.set_runner_ray(...)`). On a cluster, set these variables in the environment of the workers too, and put inputs and
output on a file system that all workers can read.
"""

from __future__ import annotations

import os

os.environ.update(
    DO_NOT_TRACK="1",
    SCARF_NO_ANALYTICS="1",
    DAFT_ANALYTICS_ENABLED="0",
    DAFT_PROGRESS_BAR="0",
    DAFT_SHOW_QUERY_ID="0",
)

import daft  # after the variables above, which Daft reads at import

__all__ = ["daft"]
