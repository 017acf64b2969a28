"""What one benchmark found."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """A line that should be reached; a missed one is reported and fails nothing by itself."""

    text: str
    met: bool


@dataclass(slots=True)
class Result:
    """Figures of one benchmark.

    Attributes:
        name: The benchmark.
        results: One mapping per contestant (``who``) or per load, units in the names.
        ratios: Ours over another's, or another's cost over ours, by who that is: larger is better.
            The gate compares them with the committed ones.
        goals: What should be reached.
    """

    name: str
    results: list[dict[str, Any]]
    ratios: dict[str, float] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "name": self.name,
            "results": self.results,
            "ratios": {name: round(value, 3) for name, value in self.ratios.items()},
            "goals": [{"goal": goal.text, "met": goal.met} for goal in self.goals],
        }
