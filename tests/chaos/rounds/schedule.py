"""What happens in a round, and when: drawn from a seed, before anything is started."""

import random
from dataclasses import dataclass

WORKERS = ("score-0", "score-1", "land-0", "join-0", "learn-0", "deliver-0")
"""Every role, by the names that the tree gives."""

OF_THE_STORE = (
    "store killed",
    "store slow",
    "store unreachable",
    "replies of the store lost",
    "store's disk full",
)
OF_WORKERS = (
    "worker asleep",
    "worker asleep past its transaction",
    "twin with the same name",
    "worker joins and leaves",
    "clock ahead",
    "clock back",
)
OF_ONE_BROKER = (
    "broker killed",
    "broker slow",
    "broker unreachable",
    "connections to the broker cut",
    "broker's disk full",
)
OF_THREE_BROKERS = ("leader killed", "two of three brokers gone", "follower killed")
SWAP = "another version announced"

SESSION_S = 3.0
TRANSACTION_S = 5.0
"""What the workers of a round are told: short, so that rounds are."""

DURATION_S = {
    "worker asleep": (SESSION_S + 1.0, SESSION_S + 3.0),
    "worker asleep past its transaction": (TRANSACTION_S + 4.0, TRANSACTION_S + 7.0),
    "twin with the same name": (6.0, 10.0),
    "worker joins and leaves": (6.0, 10.0),
    "clock ahead": (3.0, 6.0),
    "clock back": (3.0, 6.0),
    "two of three brokers gone": (TRANSACTION_S + 3.0, TRANSACTION_S + 6.0),
}
"""Seconds, least and most; anything else lasts `SHORT_S`."""

SHORT_S = (2.0, 8.0)
KILLS_AT_ONCE = (1, 1, 1, 2, 2, 3)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault.

    Attributes:
        pause_s: Seconds of peace before it.
        fault: What happens; "kill" is kill -9.
        victims: Which workers; empty where the fault is a server's.
        duration_s: Seconds until it is over; 0 for a kill.
        meanwhile: Workers killed in the middle of it.
    """

    pause_s: float
    fault: str
    victims: tuple[str, ...] = ()
    duration_s: float = 0.0
    meanwhile: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """One round: how many brokers, and the steps in their order."""

    number: int
    brokers: int
    seed: str
    steps: tuple[Step, ...]

    @property
    def kills(self) -> int:
        """How many processes are killed with kill -9 by the schedule itself."""
        servers = {"store killed", "broker killed", "leader killed", "follower killed"}
        return sum(
            len(step.meanwhile)
            + (len(step.victims) if step.fault == "kill" else 0)
            + (step.fault in servers)
            + 2 * (step.fault == "two of three brokers gone")
            for step in self.steps
        )


def drawn(
    seed: int, number: int, *, steps: int, kills_share: float = 0.5, at_once_max: int = 3,
    without: frozenset[str],
) -> Schedule:  # fmt: skip
    """Round ``number`` of ``seed``: every third one with three brokers.

    Args:
        seed: Of all rounds.
        number: 0 is the first round.
        steps: How many faults.
        kills_share: About that part of them are kills of workers, of one or of several at once.
        at_once_max: How many workers are killed at once, at most.
        without: Faults that this machine cannot bring about.
    """
    brokers = 3 if number % 3 == 1 else 1
    dice = random.Random(f"{seed}/{number}")
    own = OF_ONE_BROKER if brokers == 1 else OF_THREE_BROKERS
    faults = [f for f in (*OF_THE_STORE, *OF_WORKERS, *own, SWAP) if f not in without]
    # A shuffled deck for each number of brokers, dealt on from round to round: none is left out.
    deck = random.Random(f"{seed}/{brokers}").sample(faults, len(faults))
    dealt = number - (number + 1) // 3 if brokers == 1 else number // 3  # rounds before
    others = steps - round(steps * kills_share)
    chosen = [deck[(dealt * others + i) % len(deck)] for i in range(others)]
    chosen += ["kill"] * (steps - others)
    dice.shuffle(chosen)
    return Schedule(
        number, brokers, f"{seed}/{number}", tuple(_step(f, dice, at_once_max) for f in chosen)
    )


def _step(fault: str, dice: random.Random, at_once_max: int) -> Step:
    pause_s = round(dice.uniform(1.0, 4.0), 2)
    if fault == "kill":
        counts = [count for count in KILLS_AT_ONCE if count <= at_once_max]
        victims = tuple(dice.sample(WORKERS, dice.choice(counts)))
        return Step(pause_s, fault, victims)
    victims = ()
    if fault.startswith("worker asleep"):
        victims = (dice.choice(WORKERS[:-1]),)
    elif fault in {"twin with the same name", "worker joins and leaves"}:
        victims = (dice.choice(("score-0", "land-0", "join-0", "learn-0")),)
    duration_s = round(dice.uniform(*DURATION_S.get(fault, SHORT_S)), 2)
    awake = [name for name in WORKERS[:-1] if name not in victims]
    meanwhile = (dice.choice(awake),) if dice.random() < 0.4 else ()
    return Step(pause_s, fault, victims, duration_s, meanwhile)
