"""Whether a version may replace the champion: every number it rests on, and no way round it.

Both answer the same rows, which are later than everything the challenger learned from, through the
code that serves. The verdict lies beside the version in the registry and in SQL. Nothing automatic
passes a version whose verdict is no; a person can, with a reason that is kept.

Shape letters: B = judged rows.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.engine import Loaded
from models.features import from_table
from models.protocol import FeatureColumns
from schemas.features import Feature
from schemas.manifest import Manifest
from schemas.training import LATENCY_ROWS, Check, Gate, Verdict
from trainers.evaluate import PROBABILITY_MIN

Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
"""Of the paired bootstrap: the ends of a 95 percent interval then rest on 25 of them each."""

LATENCY_CALLS = 30
BIN_ROWS = 500
BINS_MAX = 10
"""Bins of the calibration error: in smaller ones chance alone looks like an error of some percent.
"""


def judge(
    challenger: Loaded,
    manifest: Manifest,
    champion: Loaded | None,
    *,
    judged: pa.Table,
    features: Sequence[Feature],
    gate: Gate,
    digest: str,
    base_rate: float,
    size_bytes: int,
    seed: int,
    now_ms: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Verdict:
    """The verdict about ``challenger`` on the rows ``judged``.

    Args:
        challenger: As it would serve, read from the registry: its signature was checked there.
        manifest: Of the challenger.
        champion: What serves now; None: the challenger needs to be better than ``base_rate`` only.
        judged: As a history, with truth.
        features: As declared now.
        gate: The limits.
        digest: Of the challenger's manifest.
        base_rate: Share of ones in the challenger's training rows.
        size_bytes: Of its weights.
        seed: Of the bootstrap.
        now_ms: Goes into the verdict.
        clock: Seconds, for the latency.

    Raises:
        FeatureError: a value of ``judged`` breaks the declaration.
        ModelError: one of the two cannot answer these rows.
    """
    rows = len(judged)
    checks = [
        Check(name="signature", passed=True, value=1.0, limit=1.0, why="read back and verified"),
        _features_check(manifest, features),
        *_size_checks(rows, size_bytes, gate),
    ]
    if rows and all(check.passed for check in checks):
        columns = from_table(features, judged)
        labels = judged["label"].to_numpy().astype(np.float64)
        checks += _answers(
            challenger, champion, columns, labels, gate, base_rate=base_rate, seed=seed
        )
        checks.append(_latency_check(challenger, columns, gate, clock))
    times = judged["event_time_ms"]
    return Verdict(
        pipeline=manifest.pipeline,
        version=challenger.version,
        digest=digest,
        champion="" if champion is None else champion.version,
        judged_at_ms=now_ms,
        rows=rows,
        event_time_ms_first=int(pc.min(times).as_py() or 0),
        event_time_ms_last=int(pc.max(times).as_py() or 0),
        checks=tuple(checks),
    )


def _size_checks(rows: int, size_bytes: int, gate: Gate) -> list[Check]:
    return [
        Check(
            name="rows",
            passed=rows >= gate.rows_min,
            value=rows,
            limit=gate.rows_min,
            why=f"{rows} rows with truth",
        ),
        Check(
            name="size_bytes",
            passed=size_bytes <= gate.size_bytes_max,
            value=size_bytes,
            limit=gate.size_bytes_max,
            why=f"{size_bytes} bytes of weights",
        ),
    ]


def refused(manifest: Manifest, version: str, digest: str, *, why: str, now_ms: int) -> Verdict:
    """The verdict about a version that could not even be loaded."""
    return Verdict(
        pipeline=manifest.pipeline,
        version=version,
        digest=digest,
        champion="",
        judged_at_ms=now_ms,
        rows=0,
        event_time_ms_first=0,
        event_time_ms_last=0,
        checks=(Check(name="signature", passed=False, value=0.0, limit=1.0, why=why),),
    )


def _features_check(manifest: Manifest, features: Sequence[Feature]) -> Check:
    """The events must hold what the model wants, of the same kind and with the same meaning."""
    declared = {f.name: f for f in features}
    wanted: list[Feature] = [*manifest.features.numeric, *manifest.features.category]
    wrong = [f.name for f in wanted if declared.get(f.name) != f]
    return Check(
        name="features",
        passed=not wrong,
        value=len(wrong),
        limit=0.0,
        why=f"digest {manifest.features.digest}; "
        + (f"not as declared: {', '.join(wrong)}" if wrong else "all as declared"),
    )


def _answers(
    challenger: Loaded,
    champion: Loaded | None,
    columns: FeatureColumns,
    labels: Floats,
    gate: Gate,
    *,
    base_rate: float,
    seed: int,
) -> list[Check]:
    scores = challenger.score(columns).astype(np.float64)
    losses = loss_of(scores, labels)
    nothing = loss_of(np.full(len(labels), base_rate), labels)
    skill = interval(losses - nothing, confidence=gate.confidence, seed=seed)
    checks = [
        Check(
            name="skill",
            passed=skill[1] < 0.0,
            value=skill[1],
            limit=0.0,
            why=f"log-loss {losses.mean():.4f} against {nothing.mean():.4f} of the base rate",
        )
    ]
    error, limit = calibration_error(scores, labels), gate.calibration_error_max
    if champion is not None:
        before = champion.score(columns).astype(np.float64)
        # Where the world itself has changed, nobody is calibrated: then no worse will do.
        limit = max(limit, calibration_error(before, labels))
        excess = losses - loss_of(before, labels)
        checks.append(_loss_check(excess, gate, seed))
        checks.append(_errors_check(scores, before, labels, gate))
        checks.append(_slices_check(excess, columns, gate))
    checks.append(
        Check(
            name="calibration_error",
            passed=error <= limit,
            value=error,
            limit=limit,
            why=f"what was said and what came true differ by {error:.4f} on average",
        )
    )
    return checks


def loss_of(scores: Floats, labels: Floats) -> Floats:
    """Log-loss of each row, nats."""
    p = np.clip(scores, PROBABILITY_MIN, 1.0 - PROBABILITY_MIN)
    return -(labels * np.log(p) + (1.0 - labels) * np.log1p(-p))


def interval(differences: Floats, *, confidence: float, seed: int) -> tuple[float, float]:
    """Both ends of the interval of the mean of paired differences, by bootstrap.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, the percentile interval.
    """
    random = np.random.default_rng(seed)
    count = len(differences)
    means = [differences[random.integers(0, count, count)].mean() for _ in range(RESAMPLES)]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def calibration_error(scores: Floats, labels: Floats) -> float:
    """Mean distance between score and outcome over bins with equally many rows each.

    Source: Nixon et al., Measuring calibration in deep learning, 2019 (adaptive bins).
    """
    bins = int(np.clip(len(scores) // BIN_ROWS, 1, BINS_MAX))
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, bins)
    distances = [abs(scores[part].mean() - labels[part].mean()) * len(part) for part in parts]
    return float(sum(distances) / len(scores))


def _loss_check(excess: Floats, gate: Gate, seed: int) -> Check:
    low, high = interval(excess, confidence=gate.confidence, seed=seed)
    return Check(
        name="loss_excess",
        passed=high <= gate.loss_margin,
        value=high,
        limit=gate.loss_margin,
        why=f"log-loss {excess.mean():+.4f} against the champion's, between {low:+.4f} and "
        f"{high:+.4f} with confidence {gate.confidence} (paired bootstrap, {len(excess)} rows)",
    )


def _errors_check(scores: Floats, before: Floats, labels: Floats, gate: Gate) -> Check:
    """Decisions at one half: only the rows on which the two differ can tell them apart.

    Source: McNemar 1947; the interval is Wald's for paired proportions.
    """
    wrong, wrong_before = (scores >= 0.5) != labels, (before >= 0.5) != labels
    lost, won = int((wrong & ~wrong_before).sum()), int((~wrong & wrong_before).sum())
    count = len(labels)
    excess = (lost - won) / count
    spread = max(0.0, lost + won - (lost - won) ** 2 / count) ** 0.5 / count
    low = excess - _quantile(gate.confidence) * spread
    return Check(
        name="errors_excess",
        passed=low <= gate.errors_margin,
        value=low,
        limit=gate.errors_margin,
        why=f"{lost} decisions got worse and {won} better (McNemar, {count} rows)",
    )


def _slices_check(excess: Floats, columns: FeatureColumns, gate: Gate) -> Check:
    """No group of rows may pay for the gain of the others; beyond doubt, so that chance among
    many small groups stops nobody (Bonferroni).
    """
    found = []
    for name in columns.category:
        words = np.asarray(columns.words_of(name).to_pylist(), dtype=object)
        for word in np.unique(words.astype(str)):
            part = excess[words == word]
            if len(part) >= gate.slice_rows_min:
                found.append((f"{name}={word}", part))
    if not found:
        return Check(
            name="slices", passed=True, value=0.0, limit=gate.slice_margin, why="none large enough"
        )
    z = _quantile(1.0 - (1.0 - gate.confidence) / len(found))
    lows = [(part.mean() - z * part.std() / len(part) ** 0.5, name) for name, part in found]
    low, name = max(lows)
    return Check(
        name="slices",
        passed=bool(low <= gate.slice_margin),
        value=float(low),
        limit=gate.slice_margin,
        why=f"of {len(found)} slices {name} is the worst: log-loss at least {low:+.4f} against "
        "the champion's",
    )


def _latency_check(
    challenger: Loaded, columns: FeatureColumns, gate: Gate, clock: Callable[[], float]
) -> Check:
    batch = challenger.encode(columns)
    part = batch._replace(
        numeric_BF=batch.numeric_BF[:LATENCY_ROWS], category_BC=batch.category_BC[:LATENCY_ROWS]
    )
    times = []
    for _ in range(LATENCY_CALLS):
        began = clock()
        challenger.score_input(part)
        times.append(clock() - began)
    found_ms = statistics.median(times) * 1000.0
    return Check(
        name="latency_ms",
        passed=found_ms <= gate.latency_ms_max,
        value=found_ms,
        limit=gate.latency_ms_max,
        why=f"{found_ms:.2f} ms for {part.numeric_BF.shape[0]} rows on {challenger.device}",
    )


def _quantile(confidence: float) -> float:
    return statistics.NormalDist().inv_cdf(0.5 + confidence / 2.0)
