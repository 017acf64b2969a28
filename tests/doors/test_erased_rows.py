"""A key's rows in the store: deleted, counted again, and still accounted for in the books."""

from collections.abc import Callable, Iterator

import pytest

from schemas.loading import load_pipeline
from schemas.settings import Settings
from streams.books.committed import Span
from streams.books.reconcile import StoreRows
from streams.store.client import Client, connect
from streams.store.erasing import Wanted, erase_rows, known_event_ids, wanted_rows
from streams.store.migrations import migrate

FLIGHTS = load_pipeline("flights")
TOPICS = {"events": "flights.events", "labels": "flights.labels", "examples": "flights.examples"}
EVENTS = 40
KEYS = 4


@pytest.fixture
def filled(store: str, unique: Callable[[str], str]) -> Iterator[Client]:
    """Forty events of four keys with label and two examples each, four dead letters."""
    settings = Settings(clickhouse=store, database=unique("erasing"))
    migrate(settings)
    client = connect(settings)
    for table, columns, values, count in (
        ("scored", "topic_offset, event_id, key, source_offset, predicted_at",
         f"intDiv(number, 10), 'e' || number, 'k\\'' || number % {KEYS}, number, now64(3)", EVENTS),
        ("labels", "topic_partition, topic_offset, event_id, value",
         "1, number, 'e' || number, 1", EVENTS),
        ("examples", "topic_partition, topic_offset, event_id, kind, produced_at",
         "2, intDiv(number, 10), 'e' || intDiv(number, 2), 'final', now64(3)", 2 * EVENTS),
        ("dead_letters", "source_topic, source_offset, key",
         "'flights.events', 100 + number, 'k\\'' || number", KEYS),
    ):  # fmt: skip
        rows = f"SELECT 'flights', {values} FROM numbers({count})"
        client.command(f"INSERT INTO {table} (pipeline, {columns}) {rows}")
    yield client
    client.close()


def wanted(client: Client, key: str, **more: list) -> list[Wanted]:
    ids = known_event_ids(client, "flights", key)
    places = {"label_places": [], "letters": []} | more
    return wanted_rows("flights", key, ids, topics=TOPICS, **places)


def books(client: Client) -> list[list[int]]:
    """What `reconcile` reads of the four tables."""
    rows, all_ = StoreRows(client), Span(0, 1000)
    return [
        sorted(rows.offsets(table, FLIGHTS, topic, partition, all_).tolist())
        for table, topic, partition in (
            ("scored", "flights.events", 0),
            ("labels", "flights.labels", 1),
            ("examples", "flights.examples", 2),
            ("dead_letters", "flights.events", 0),
        )
    ]


@pytest.mark.connected
def test_rows_of_a_key_go_and_the_books_do_not_change(filled: Client) -> None:
    """Ten events of the key, their labels and examples, one dead letter; nothing of another's."""
    key, before = "k'1", books(filled)
    found = erase_rows(filled, wanted(filled, key), receipt="r", at_ms=5)
    assert {t.table: (t.rows, t.left) for t in found} == {
        "scored": (10, 0), "labels": (10, 0), "examples": (20, 0), "dead_letters": (1, 0),
    }  # fmt: skip
    left = filled.query("SELECT key, count() FROM scored GROUP BY key ORDER BY key").result_rows
    assert left == [("k'0", 10), ("k'2", 10), ("k'3", 10)]
    ids = [row[0] for row in filled.query("SELECT event_id FROM labels").result_rows]
    assert len(ids) == 30
    assert not [i for i in ids if int(i[1:]) % KEYS == 1]
    assert books(filled) == before


@pytest.mark.connected
def test_what_broke_off_is_done_again_without_counting_twice(filled: Client) -> None:
    """Between the note of the places and the deletion a process may die."""
    before, todo = books(filled), wanted(filled, "k'2")
    dying = [Wanted(w.table, w.place, w.condition, w.parameters) for w in todo]

    class Died(Exception):
        pass

    class Dying:
        """The client until the first deletion."""

        def __getattr__(self, name: str) -> object:
            return getattr(filled, name)

        def command(self, sql: str, **_more: object) -> None:
            raise Died(sql)

    with pytest.raises(Died, match="ALTER TABLE"):
        erase_rows(Dying(), dying, receipt="first", at_ms=5)  # type: ignore[arg-type]
    assert books(filled) != before, "the same row is there and erased: reconcile says so"
    erase_rows(filled, wanted(filled, "k'2"), receipt="second", at_ms=6)
    assert books(filled) == before


@pytest.mark.connected
def test_labels_and_letters_that_topics_alone_tie_to_the_key_go_too(filled: Client) -> None:
    """A label without an event, and a dead letter without a Kafka key."""
    filled.command(
        "INSERT INTO labels (pipeline, topic_partition, topic_offset, event_id, value) "
        "VALUES ('flights', 1, 900, 'orphan', 1)"
    )
    filled.command(
        "INSERT INTO dead_letters (pipeline, source_topic, source_partition, source_offset, key) "
        "VALUES ('flights', 'flights.labels', 1, 901, NULL)"
    )
    todo = wanted(filled, "nobody", label_places=[(1, 900)], letters=[("flights.labels", 1, 901)])
    found = erase_rows(filled, todo, receipt="r", at_ms=5)
    counts = {t.table: (t.rows, t.left) for t in found}
    assert (counts["labels"], counts["dead_letters"]) == ((1, 0), (1, 0))
