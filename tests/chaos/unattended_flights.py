"""The flights, with a first model of three days, so that a better one is soon found."""

from dataclasses import replace

from schemas.pipelines import flights as ready
from schemas.retraining import Retraining, Rollout

unattended_flights = replace(
    ready.flights,
    first_training_days=3,
    partitions=2,
    retraining=Retraining(examples=10_000, gap="45s"),
    rollout=Rollout(step_rows=500, shift_max=0.3, stage_s_min=5.0),
)
