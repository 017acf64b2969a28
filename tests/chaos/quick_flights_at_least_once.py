"""`quick_flights` with predictions that leave at once."""

from schemas.pipeline import Pipeline
from schemas.pipelines.flights import flights

quick_flights = Pipeline(
    name="flights",
    key=flights.key,
    features=flights.features,
    target=flights.target,
    history=flights.history,
    first_training_days=8,
    delivery="at-least-once",
)
