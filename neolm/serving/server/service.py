"""What all routes share: models, keys, feedback, measures, the log, and whether the server is to stop."""

from __future__ import annotations

import time

from neolm.serving.server.feedback import FeedbackStore
from neolm.serving.server.journal import Journal
from neolm.serving.server.keys import KeyRing
from neolm.serving.server.measures import Measures
from neolm.serving.server.settings import ServeConfig
from neolm.serving.server.shelf import Shelf


class Service:
    """What the routes share."""

    def __init__(
        self,
        settings: ServeConfig,
        shelf: Shelf,
        keys: KeyRing,
        feedback: FeedbackStore | None,
        journal: Journal | None = None,
    ) -> None:
        self.settings, self.shelf, self.keys, self.feedback = settings, shelf, keys, feedback
        self.measures, self.journal = Measures(shelf), journal or Journal(settings.log_text)
        self.stop_at: float | None = None  # answers under way end then (monotonic seconds)

    @property
    def stopping(self) -> bool:
        """Whether the server has been told to stop."""
        return self.stop_at is not None

    def stop(self) -> None:
        """Take no more requests; those under way have some time left."""
        if self.stop_at is None:
            self.stop_at = time.monotonic() + self.settings.shutdown_seconds

    def seconds_left(self, deadline: float) -> float:
        """Until a request must end."""
        return min(deadline, self.stop_at if self.stop_at is not None else deadline) - time.monotonic()
