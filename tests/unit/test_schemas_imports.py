"""A package is hidden from an import that would take it along, and from no other."""

import subprocess
import sys

from schemas.imports import without


def _run(code: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_a_hidden_package_can_be_imported_afterwards() -> None:
    """Also a part of it; and inside, it fails as if it were not installed."""
    _run(
        "from schemas.imports import without\n"
        "with without('colorsys'):\n"
        "    try:\n"
        "        import colorsys\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert error.name == 'colorsys'\n"
        "    else:\n"
        "        raise AssertionError\n"
        "import colorsys\n"
    )


def test_what_was_imported_before_stays() -> None:
    """Whoever has it goes on with it."""
    import json

    with without("json"):
        import json as again
    assert again is json


def test_a_learner_of_river_starts_without_scikit_learn() -> None:
    """It takes half of the import's time and 60 MB, and no learner needs it."""
    _run(
        "import sys\n"
        "from models.online import make_learner\n"
        "from schemas.pipeline import Target, online, label\n"
        "make_learner(online('logistic_regression'), label('bought'))\n"
        "assert 'river' in sys.modules\n"
        "assert not {'sklearn', 'pandas'} & set(sys.modules), sorted(sys.modules)\n"
    )
