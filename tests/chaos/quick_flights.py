"""The flights, with a first model that learns from one week: it is trained in seconds."""

from schemas.pipeline import Pipeline
from schemas.pipelines.flights import flights

quick_flights = Pipeline(
    name="flights",
    key=flights.key,
    features=flights.features,
    target=flights.target,
    history=flights.history,
    first_training_days=8,
)
