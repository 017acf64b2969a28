"""What a user writes: one `Pipeline`, a declaration of what to score and what the truth is.

    from schemas.pipeline import Pipeline, category, label, numeric

    payments = Pipeline(
        name="payments",
        key="account_id",
        features=[numeric("amount_eur"), category("country")],
        target=label("fraud"),
    )

``tidemill up payments.py`` then runs it: it creates the topics, trains the first model from
``history`` (or serves the declared prior until there is one), scores and lands.
"""

import inspect
import keyword
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from schemas.alerts import AlertRule, alert_problems
from schemas.drift import Drift, drift_problems
from schemas.durations import duration_ms, duration_problem
from schemas.errors import PipelineError
from schemas.features import FLOAT32_OVERFLOW, NAME, Category, Feature, Numeric, split
from schemas.retraining import (
    ModelAge,
    Retraining,
    Rollout,
    model_age_problems,
    retraining_problems,
    rollout_problems,
)
from schemas.topics import PipelineTopics

PIPELINE_NAME_LENGTH_MAX = 48
ENVELOPE = ("event_id", "event_time_ms")
"""Fields every event has besides its key and its features."""
TRUTH = ("label", "label_time_ms")
"""Columns of a history that no event may have: the model would be shown what it is to predict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The truth that arrives later: yes (1) or no (0), or a number.

    Attributes:
        name: What a 1 means, or what the number is, as a word for people and for SQL.
        prior: The share of ones, or the number, to assume before any model exists.
        kind: ``binary`` or ``number``.
    """

    name: str
    prior: float = 0.5
    kind: Literal["binary", "number"] = "binary"


Parameter = float | int | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Online:
    """A learner that learns from every label as it arrives.

    Attributes:
        name: Which one; `models.online` knows them.
        shards: ``partition``: one learner per partition, which knows only its own keys and scales
            with the partitions. ``single``: one that sees everything, in one fixed order.
        parameters: Its own settings, sorted by name.
    """

    name: str
    shards: Literal["partition", "single"] = "partition"
    parameters: tuple[tuple[str, Parameter], ...] = ()


def numeric(name: str, *, missing: float | None = None) -> Numeric:
    """A feature that is a number; ``missing`` replaces an absent or null value."""
    return Numeric(name=name, missing=missing)


def category(name: str, *, missing: str | None = None, vocabulary_max: int = 256) -> Category:
    """A feature that is a word out of a limited set; words never seen in training share index 0."""
    return Category(name=name, missing=missing, vocabulary_max=vocabulary_max)


def label(name: str, *, prior: float = 0.5, kind: Literal["binary", "number"] = "binary") -> Target:
    """The truth to predict: yes or no, or with ``kind="number"`` any finite number."""
    return Target(name=name, prior=prior, kind=kind)


def online(
    name: str, *, shards: Literal["partition", "single"] = "partition", **parameters: Parameter
) -> Online:
    """An online learner by its name, with its parameters."""
    return Online(name=name, shards=shards, parameters=tuple(sorted(parameters.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A declaration: which events, which features, which truth.

    Attributes:
        name: Prefix of the topics and name of the SQL view.
        key: The event field that identifies the subject (a card, a machine, an aircraft). Events
            and labels with the same key stay in order.
        features: What the model sees.
        target: What the model predicts.
        partitions: Partitions of each topic; the most workers that can share the work.
        history: A function that returns labelled past events as an Arrow table with the columns
            of the event plus ``label`` (0.0, 1.0 or null) and ``label_time_ms``, sorted by
            ``event_time_ms``. Used to train the first model and by ``tidemill replay``.
        first_training_days: How much of the history, from its start, the first model learns from.
        horizon: How long after the event its truth is waited for: a number and s, m, h or d.
        silence: What it means that no truth came until then: a label, or None for "not known".
        corrections: How long after the horizon a truth may still correct what was said before.
            None: as long as the horizon.
        learner: The `online` learner beside the deep model, if any.
        delivery: How predictions leave. ``exactly-once``: in one transaction with the source
            offsets, each visible once to ``read_committed`` readers. ``at-least-once``: at once, in
            a third of the time; after a crash some come again, with the same source partition and
            offset. Scored rows, dead letters and tables are exact either way.
        champion: What is served: ``frozen`` (the deep model alone), ``online`` (the learner alone)
            or ``hybrid``. None: ``hybrid`` with a learner (``online`` if the target is a number),
            otherwise ``frozen``.
        quality_window: Over which time of events quality is summed up, as `horizon` is written.
        drift: What is watched for change, and the budget of false alarms; use `drift(...)`.
        retraining: When a new version is trained without being asked. None: never.
        rollout: What is asked of a version that is tried.
        model_age: What happens when the version that serves is too old. None: nothing.
        alerts: What people are told about, besides the defaults or in their place; use
            `schemas.alerts.alert`.

    Raises:
        PipelineError: with the file and line of the declaration, the field and the fix.
    """

    name: str
    key: str
    features: Sequence[Feature]
    target: Target
    partitions: int = 4
    history: Callable[[], pa.Table] | None = None
    first_training_days: int = 42
    horizon: str = "24h"
    silence: float | None = None
    corrections: str | None = None
    learner: Online | None = None
    champion: Literal["frozen", "online", "hybrid"] | None = None
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    quality_window: str = "1h"
    drift: Drift = field(default_factory=Drift)
    retraining: Retraining | None = None
    rollout: Rollout = field(default_factory=Rollout)
    model_age: ModelAge | None = None
    alerts: Sequence[AlertRule] = ()
    source: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Check the declaration as a whole and remember where it stands."""
        place = _declared_at()
        object.__setattr__(self, "source", place)
        if isinstance(self.features, Sequence) and not isinstance(self.features, str):
            object.__setattr__(self, "features", tuple(self.features))
        if isinstance(self.alerts, Sequence) and not isinstance(self.alerts, str):
            object.__setattr__(self, "alerts", tuple(self.alerts))
        if self.champion is None:
            object.__setattr__(self, "champion", self._usual_champion())
        for problem in _problems(self):
            raise PipelineError(f"{place}: pipeline {self.name!r}: {problem}")

    def _usual_champion(self) -> Literal["frozen", "online", "hybrid"]:
        if self.learner is None:
            return "frozen"
        return "online" if getattr(self.target, "kind", "") == "number" else "hybrid"

    @property
    def topics(self) -> PipelineTopics:
        """The topics of this pipeline."""
        shards = self.learner.shards if self.learner else "partition"
        return PipelineTopics(self.name, self.partitions, self.key, shards)

    @property
    def horizon_ms(self) -> int:
        """`horizon` in milliseconds."""
        return duration_ms(self.horizon)

    @property
    def corrections_ms(self) -> int:
        """`corrections` in milliseconds."""
        return duration_ms(self.horizon if self.corrections is None else self.corrections)

    @property
    def quality_window_ms(self) -> int:
        """`quality_window` in milliseconds."""
        return duration_ms(self.quality_window)


def _declared_at() -> str:
    """File and line of the statement that called ``Pipeline(...)``."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    # The generated __init__ of the dataclass has a file name of its own: "<string>".
    while frame is not None and frame.f_code.co_filename.startswith("<"):
        frame = frame.f_back
    return "unknown" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _problems(pipeline: Pipeline) -> list[str]:
    """What is wrong, each as field, fact and fix."""
    found: list[str] = []
    found += _name_problem("name", pipeline.name, length_max=PIPELINE_NAME_LENGTH_MAX)
    found += _name_problem("key", pipeline.key)
    if not isinstance(pipeline.features, tuple):
        found.append(f"features: {pipeline.features!r} is no list. Put them in a list: [...].")
    elif not pipeline.features:
        found.append("features: at least one is needed. Add numeric(...) or category(...).")
    else:
        found += _feature_problems(pipeline.features, pipeline.key)
    if not isinstance(pipeline.target, Target):
        found.append(f"target: {pipeline.target!r} is no label. Use label('...').")
    else:
        found += _name_problem("target", pipeline.target.name)
        found += _target_problems(pipeline.target)
    if not _is_whole(pipeline.partitions, 1, 1024):
        found.append(f"partitions: {pipeline.partitions!r} must be a number, 1 to 1024.")
    if pipeline.history is not None and not callable(pipeline.history):
        found.append(f"history: {pipeline.history!r} must be a function that returns a table.")
    if not _is_whole(pipeline.first_training_days, 1, 1 << 31):
        found.append(f"first_training_days: {pipeline.first_training_days!r} must be at least 1.")
    if not found:  # names of features are compared, so they must be sound
        numeric, category = split(pipeline.features)
        names = [item.name for item in numeric], [item.name for item in category]
        found += drift_problems(pipeline.drift, *names)
    if pipeline.delivery not in {"exactly-once", "at-least-once"}:
        found.append(f"delivery: {pipeline.delivery!r} must be 'exactly-once' or 'at-least-once'.")
    found += retraining_problems(pipeline.retraining) + rollout_problems(pipeline.rollout)
    found += model_age_problems(pipeline.model_age) + alert_problems(pipeline.alerts)
    return found + _learning_problems(pipeline)


def _target_problems(target: Target) -> list[str]:
    prior = target.prior
    if target.kind == "number":
        if not _is_number(prior):
            return [f"target: prior={prior!r} must be a finite number."]
    elif target.kind != "binary":
        return [f"target: kind={target.kind!r} must be 'binary' or 'number'."]
    elif not isinstance(prior, float | int) or not 0.0 < prior < 1.0:
        return [f"target: prior={prior!r} must be a number between 0 and 1."]
    return []


def _learning_problems(pipeline: Pipeline) -> list[str]:
    found: list[str] = []
    for place, text in (
        ("horizon", pipeline.horizon),
        ("corrections", pipeline.corrections),
        ("quality_window", pipeline.quality_window),
    ):
        if text is not None or place != "corrections":
            found += duration_problem(place, text)
    silence, learner = pipeline.silence, pipeline.learner
    binary = not isinstance(pipeline.target, Target) or pipeline.target.kind == "binary"
    if silence is not None and not (_is_number(silence) and (not binary or silence in (0, 1))):
        allowed = "0, 1 or None" if binary else "a finite number or None"
        found.append(f"silence: {silence!r} must be {allowed}.")
    if pipeline.champion not in {"frozen", "online", "hybrid"}:
        found.append(f"champion: {pipeline.champion!r} must be 'frozen', 'online' or 'hybrid'.")
    elif learner is None and pipeline.champion != "frozen":
        found.append(f"champion: {pipeline.champion!r} needs a learner. Add learner=online('...').")
    if learner is None:
        return found
    if not isinstance(learner, Online):
        return [*found, f"learner: {learner!r} is no learner. Use online('...')."]
    if learner.shards not in {"partition", "single"}:
        found.append(f"learner: shards={learner.shards!r} must be 'partition' or 'single'.")
    return found + _name_problem("learner", learner.name)


def _feature_problems(features: Sequence[object], key: object) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()
    for position, item in enumerate(features):
        place = f"features[{position}]"
        if not isinstance(item, Numeric | Category):
            found.append(f"{place}: {item!r} is no feature. Use numeric('...') or category('...').")
        elif problem := _name_problem(place, item.name):
            found += problem
        elif item.name in seen:
            found.append(f"{place}: the name {item.name!r} is taken. Give it another.")
        elif item.name == key and isinstance(item, Numeric):
            found.append(
                f"key: {key!r} is a number in features[{position}], and a key is text. "
                f"Declare it as category({key!r}), or choose another key."
            )
        else:
            seen.add(item.name)
            found += _value_problems(place, item)
    return found


def _value_problems(place: str, item: Feature) -> list[str]:
    missing = item.missing
    if isinstance(item, Category):
        found = []
        if not _is_whole(item.vocabulary_max, 1, 30_000):
            found.append(f"{place}: vocabulary_max={item.vocabulary_max!r} must be 1 to 30000.")
        if missing is not None and not isinstance(missing, str):
            found.append(f"{place}: missing={missing!r} is no text. Put the word in quotes.")
        return found
    if missing is None:
        return []
    number = isinstance(missing, float | int) and not isinstance(missing, bool)
    if not number or not abs(float(missing)) < FLOAT32_OVERFLOW:
        return [f"{place}: missing={missing!r} must be a finite number that fits a float32."]
    return []


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object, lowest: int, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def _name_problem(place: str, name: object, *, length_max: int = 63) -> list[str]:
    if not isinstance(name, str):
        return [f"{place}: {name!r} is no text. Put the name in quotes."]
    if name in ENVELOPE:
        return [f"{place}: {name!r} is a field that every event has anyway. Choose another."]
    if name in TRUTH:
        return [
            f"{place}: {name!r} is the truth in a history, no part of an event. Choose another."
        ]
    if not NAME.match(name) or len(name) > length_max or keyword.iskeyword(name):
        rule = "lower-case letters, digits and underscores, a letter first"
        return [f"{place}: {name!r} cannot be used. Take {rule}, at most {length_max} characters."]
    return []
