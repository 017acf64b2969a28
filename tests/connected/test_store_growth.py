"""Rows of an earlier release mean after a migration what they meant before."""

from collections.abc import Callable

from schemas.settings import Settings
from streams.store.client import connect
from streams.store.migrations import migrate, read_migrations


def test_rows_from_before_online_learning_keep_their_meaning(
    store: str, unique: Callable[[str], str]
) -> None:
    """Their score was the model's own, no learner helped, and their labels were 0 or 1."""
    own = Settings(clickhouse=store, database=unique("growth"))
    migrate(own, migrations=read_migrations()[:3])
    client = connect(own)
    client.command(
        "INSERT INTO scored (event_id, predicted_at, score) VALUES ('e', now64(3), 0.25)"
    )
    client.command("INSERT INTO labels (event_id, value) VALUES ('e', 1), ('f', 0)")
    migrate(own)
    assert client.query("SELECT model_score, learner_position FROM scored").result_rows == [
        (0.25, -1)
    ]
    client.command("INSERT INTO labels (event_id, value) VALUES ('g', -2.5)")
    assert client.query("SELECT value FROM labels ORDER BY event_id").result_rows == [
        (1.0,),
        (0.0,),
        (-2.5,),
    ]
    client.close()
