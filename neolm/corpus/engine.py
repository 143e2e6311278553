"""Daft, the corpus engine, with everything switched off that would phone home or draw over our progress.

The only place that imports Daft. It runs embedded unless the user chose Ray by Daft's own setting
(`DAFT_RUNNER=ray`, or `daft.set_runner_ray(...)`); on a cluster these variables belong into the workers'
environment too, and inputs and output onto a file system that all of them see.
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

import daft  # after the switches above, which it reads when it is imported

__all__ = ["daft"]
