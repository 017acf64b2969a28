"""The flights on a machine where nothing lasts: small first model, frequent training and rollouts."""

from dataclasses import replace

from schemas.pipelines import flights as ready
from schemas.retraining import Retraining, Rollout

restless_flights = replace(
    ready.flights,
    first_training_days=3,
    partitions=2,
    retraining=Retraining(examples=12_000, gap="30s", days=30),
    rollout=Rollout(step_rows=500, shift_max=0.3, stage_s_min=3.0),
)
