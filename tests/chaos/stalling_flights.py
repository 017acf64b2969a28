"""The flights, with a scorer that stalls for ever in the thread that computes, once for each time
that the file beside its home is there; its event loop goes on and says that all is well."""

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

from schemas.pipelines import flights as ready

stalling_flights = replace(ready.flights, first_training_days=8, retraining=None)

if "score" in sys.argv:
    from streams.workers.score import Scorer

    marker, computing = Path(os.environ["TIDEMILL_HOME"]) / "stall", Scorer.compute

    def compute(self, runs):
        """Score, or not."""
        if marker.exists():
            marker.unlink()
            threading.Event().wait()
        return computing(self, runs)

    Scorer.compute = compute  # type: ignore[method-assign]
