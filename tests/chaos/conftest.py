"""How long and how random the chaos is."""

import pytest

ROUND_S_MAX = 90
"""How long one round of a schedule may take on a saturated machine, start-up of workers included."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A schedule that the person made longer may last longer."""
    seconds = 240 + ROUND_S_MAX * int(config.getoption("--rounds"))
    for item in items:
        if "rounds" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """Rounds of kills, one of the scorer and one of the lander each."""
    return int(request.config.getoption("--rounds"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The whole schedule follows from it; a failure prints it."""
    return int(request.config.getoption("--seed"))


@pytest.fixture
def outage_s(request: pytest.FixtureRequest) -> float:
    """How long a server stays away."""
    return float(request.config.getoption("--outage-s"))
