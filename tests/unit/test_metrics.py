"""What a process has counted, as Prometheus reads it, and who may read it."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.errors import SettingsError
from schemas.settings import METRICS_PORTS, Settings
from streams.local.ports import free_port
from streams.metrics.endpoint import Endpoint
from streams.metrics.exposition import Exposition
from streams.telemetry import Histogram, Reporter

NOW_S = 1_800_000_000.0


def reporter(folder: Path, role: str = "score") -> Reporter:
    return Reporter(folder, f"shop-{role}-0", role, "shop", clock=lambda: NOW_S)


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Name and the values of its own labels, in the order of their names -> value."""
    return {
        (
            sample.name,
            *(v for k, v in sample.labels.items() if k not in {"pipeline", "role"}),
        ): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_histogram_counts_a_value_in_the_first_range_that_holds_it() -> None:
    """Bounds belong to their range: Prometheus' `le` is less or equal."""
    found = Histogram((1.0, 10.0))
    for value in (0.5, 1.0, 1.1, 10.0, 11.0):
        found.observe(value)
    assert (found.counts, found.total) == ([2, 2, 1], 23.6)


def test_what_was_counted_is_read(tmp_path: Path) -> None:
    """Totals, series by label, cumulated buckets, age of what serves, and the state."""
    one = reporter(tmp_path)
    one.counters["predictions"] = 7
    one.counters["dead_letters"] = 3
    one.counters["dead_letters_schema"] = 2
    one.counters["dead_letters_model"] = 1
    one.computed(rows=5, num_bytes=700, began_s=0.0)
    one.committed(rows=5, sent_bytes=900, began_s=0.0, oldest_ms=int(NOW_S * 1000) - 40)
    one.models = {
        "champion": ("9c2b", int(NOW_S * 1000) - 60_000),
        "canary": ("prior", 1 << 62),
    }
    one.change("running")
    found = samples(Exposition(one, clock=lambda: NOW_S).text())
    expected = {
        ("tidemill_predictions_total",): 7,
        ("tidemill_dead_letters_total", "schema"): 2,
        ("tidemill_dead_letters_total", "model"): 1,
        ("tidemill_dead_letters_total", "time"): 0,
        ("tidemill_received_bytes_total",): 700,
        ("tidemill_sent_bytes_total",): 900,
        ("tidemill_transactions_total",): 1,
        ("tidemill_commit_timestamp_seconds",): NOW_S,
        ("tidemill_batch_rows_bucket", "4"): 0,
        ("tidemill_batch_rows_bucket", "16"): 1,
        ("tidemill_batch_rows_bucket", "+Inf"): 1,
        ("tidemill_batch_rows_sum",): 5,
        ("tidemill_batch_age_seconds_bucket", "0.025"): 0,
        ("tidemill_batch_age_seconds_bucket", "0.05"): 1,
        ("tidemill_model_info", "champion", "9c2b"): 1,
        ("tidemill_model_info", "canary", "prior"): 1,
        ("tidemill_model_age_seconds", "champion"): 60,
        ("tidemill_worker_state", "running"): 1,
        ("tidemill_worker_state", "starting"): 0,
        ("tidemill_worker_info", "shop-score-0"): 1,
    }
    assert {key: found[key] for key in expected} == expected
    assert ("tidemill_model_age_seconds", "canary") not in found, "a prior does not age"


@pytest.fixture
def port() -> int:
    return free_port()


def ask(address: str, path: str = "/metrics", **headers: str) -> tuple[int, bytes]:
    try:
        with urlopen(Request(f"http://{address}{path}", headers=headers), timeout=5) as answer:
            return answer.status, answer.read()
    except HTTPError as refused:
        return refused.code, refused.read()


@pytest.fixture
def served(tmp_path: Path, port: int) -> Iterator[Endpoint]:
    with Endpoint(reporter(tmp_path), Settings(metrics_port=port)) as endpoint:
        yield endpoint


def test_the_endpoint_answers_this_machine_and_no_web_page(served: Endpoint) -> None:
    """A page elsewhere may give its own name this machine's address."""
    assert served.address.startswith("127.0.0.1:")
    status, body = ask(served.address)
    assert (status, b"tidemill_worker_info{" in body) == (200, True)
    assert ask(served.address, Host="attacker.example")[0] == 403
    assert ask(served.address, "/")[0] == 404


def test_with_a_token_only_who_sends_it_is_answered(tmp_path: Path, port: int) -> None:
    """Then Prometheus may ask from another machine, under any name."""
    settings = Settings(metrics_port=port, metrics_token="a-token")
    with Endpoint(reporter(tmp_path), settings) as endpoint:
        assert ask(endpoint.address)[0] == 401
        assert ask(endpoint.address, Authorization="Bearer another")[0] == 401
        assert ask(endpoint.address, Authorization="Bearer a-token", Host="worker-3")[0] == 200


def test_other_machines_need_a_token() -> None:
    """Nothing listens beyond loopback for whoever comes."""
    with pytest.raises(SettingsError, match="TIDEMILL_METRICS_TOKEN_FILE"):
        Settings(metrics_host="0.0.0.0")
    assert Settings(metrics_host="0.0.0.0", metrics_token="t").metrics_host == "0.0.0.0"
    assert "a-token" not in repr(Settings(metrics_token="a-token"))


def test_processes_share_a_range_of_ports_and_prometheus_finds_each(
    tmp_path: Path, port: int
) -> None:
    """Each writes its own target; one that dies keeps its, so that it is seen to be down."""
    settings = Settings(metrics_port=port)
    first, second = reporter(tmp_path), reporter(tmp_path, "land")
    with Endpoint(first, settings) as one, Endpoint(second, settings) as two:
        assert one.address != two.address
        [target] = json.loads(second.target.read_text())
        assert target == {"targets": [two.address], "labels": {"worker": "shop-land-0"}}
    assert first.target.exists()
    with Endpoint(reporter(tmp_path, "join"), settings) as third:
        assert third.address == one.address
        assert not first.target.exists(), "its address is another's now"
    second.remove()
    assert not second.target.exists()


def test_work_goes_on_without_a_free_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are not worth an outage. The warning names the range."""
    monkeypatch.setattr("streams.metrics.endpoint.METRICS_PORTS", 1)
    settings = Settings(metrics_port=free_port())
    with (
        Endpoint(reporter(tmp_path), settings),
        Endpoint(reporter(tmp_path, "land"), settings) as late,
    ):
        assert late.address == ""
    assert METRICS_PORTS == 32
    with Endpoint(reporter(tmp_path), Settings(metrics_host="")) as off:
        assert off.address == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [("metrics_port", 65_530), ("traces_ratio", 1.5), ("traces_ratio", float("nan"))],
)
def test_limits_of_the_settings(name: str, value: float) -> None:
    """A wrong one is refused at the start, with the variable to set."""
    with pytest.raises(SettingsError, match=f"TIDEMILL_{name.upper()}"):
        Settings(**{name: value})
