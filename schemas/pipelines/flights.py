"""Will this flight, just departed, arrive late? Real departures of 2013 with the hourly weather."""

from schemas.alerts import alert
from schemas.pipeline import Pipeline, category, label, numeric, online
from schemas.pipelines._departures import departures
from schemas.retraining import Retraining

flights = Pipeline(
    name="flights",
    key="tail_number",
    features=[
        numeric("departure_delay_min"),
        numeric("distance_miles"),
        numeric("scheduled_hour"),
        numeric("day_of_week"),
        numeric("temperature_f", missing=55.0),
        numeric("wind_speed_mph", missing=10.0),
        numeric("precipitation_in", missing=0.0),
        numeric("visibility_miles", missing=10.0),
        category("carrier", vocabulary_max=32),
        category("origin", vocabulary_max=8),
        category("destination", vocabulary_max=128),
    ],
    target=label("late", prior=0.24),
    history=departures,
    horizon="24h",
    learner=online("logistic_regression"),  # hybrid: docs/benchmarks/2026-11-26-champions.md
    retraining=Retraining(examples=100_000, drift=True, gap="6h"),
    alerts=[
        alert(
            "burst-of-late-flights",
            sql="SELECT if(count() < 300, NULL, avg(label)) AS share,"
            " concat(toString(count()), ' arrivals') AS detail FROM examples"
            " WHERE pipeline = 'flights' AND kind = 'final'"
            " AND produced_at > now() - INTERVAL 10 MINUTE",
            above=0.5,
            summary="Most flights that arrived lately were late: a storm, or an airport is closed.",
        ),
    ],
)
