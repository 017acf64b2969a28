"""Who may become the champion: a version that the gate passed against the present one, or one that
a person forces, with a reason that is kept.
"""

from collections.abc import Callable

from models import rollout
from models.registry import Registry, open_registry
from schemas.errors import ModelError, StoreUnavailable
from schemas.manifest import Announcement, Manifest, NamedVersion
from schemas.settings import Settings
from schemas.training import Verdict
from streams.control.announce import change
from streams.control.audit import copy_if_any
from streams.store.client import connect
from streams.store.runs import Decision, insert_decision


def promote(
    settings: Settings,
    pipeline: str,
    version: str,
    *,
    now_ms: int,
    force_reason: str = "",
    by: str = "",
    seen_epoch: int | None = None,
    evidence: object = None,
) -> Announcement:
    """Announce ``version`` with a higher epoch, so that workers serve it.

    Args:
        settings: Where everything is.
        pipeline: Whose.
        version: Which.
        now_ms: Of the announcement.
        force_reason: Why a person overrules the gate; empty: nobody does.
        by: Why, where nobody overrules anything.
        seen_epoch: The announcement that automation has decided on: another one in between, or a
            person who holds it, stops it. None: a person promotes.
        evidence: Numbers that are kept with the decision.

    Raises:
        ModelError: there is no such version, it is not trusted, or the gate did not pass it
            against what serves now.
        KafkaUnavailable, StoreUnavailable, SetupError: it could not be announced or recorded.
    """
    registry = open_registry(settings)
    named = _loadable(registry, pipeline, version)
    found: list[str] = []

    def how(before: Announcement | None) -> Announcement:
        if seen_epoch is not None:
            unchanged(existing(before, pipeline), seen_epoch)
        serving = "" if before is None else before.version
        why_not = objection(registry, pipeline, version, serving=serving)
        if why_not and not force_reason:
            raise ModelError(
                f"could not promote version={version} of {pipeline}: {why_not}. A person who knows "
                "better says --force and a --reason."
            )
        reason = f"{force_reason} (although {why_not})" if why_not else force_reason or by
        found[:] = [serving, why_not, reason]
        return rollout.promote(before, pipeline, named, at_ms=now_ms, reason=reason)

    announcement = change(settings, pipeline, how)
    serving, why_not, reason = found
    record(
        settings,
        Decision(
            pipeline=pipeline,
            at_ms=now_ms,
            kind="promotion",
            decision="forced" if why_not else "promoted",
            version=version,
            champion=serving,
            reason=reason,
            numbers={"announcement": announcement, "evidence": evidence},
        ),
    )
    return announcement


def try_out(
    settings: Settings,
    pipeline: str,
    version: str,
    *,
    now_ms: int,
    force_reason: str = "",
    reason: str = "",
) -> Announcement:
    """Begin a rollout: ``version`` answers as a shadow; what follows is for `judging`.

    Raises:
        ModelError: there is no such version, it is not trusted, the gate did not pass it against
            what serves now, or another rollout runs.
        KafkaUnavailable, StoreUnavailable, SetupError: it could not be announced or recorded.
    """
    registry = open_registry(settings)
    named = _loadable(registry, pipeline, version)

    def how(before: Announcement | None) -> Announcement:
        if before is None:
            raise ModelError(
                f"could not try version={version} of {pipeline}: nothing serves that it could be "
                "compared with. Promote it."
            )
        why_not = objection(registry, pipeline, version, serving=before.version)
        if why_not and not force_reason:
            raise ModelError(
                f"could not try version={version} of {pipeline}: {why_not}. A person who knows "
                "better says --force and a --reason."
            )
        why = f"{force_reason} (although {why_not})" if why_not else force_reason or reason
        return rollout.try_out(before, named, at_ms=now_ms, reason=why)

    return steer(settings, pipeline, how, now_ms=now_ms)


def steer(
    settings: Settings,
    pipeline: str,
    how: Callable[[Announcement | None], Announcement],
    *,
    now_ms: int,
    evidence: object = None,
) -> Announcement:
    """Announce a step of a rollout and record it with its reason.

    Raises:
        ModelError: ``how`` refuses; nothing is announced.
        KafkaUnavailable, StoreUnavailable, SetupError: it could not be announced or recorded.
    """
    seen: list[Announcement | None] = []

    def noted(before: Announcement | None) -> Announcement:
        seen[:] = [before]
        return how(before)

    announcement = change(settings, pipeline, noted)
    assert announcement.action != "promote"  # `promote` asks the gate
    [before] = seen
    tried = announcement.challenger or announcement.champion
    if announcement.action == "rollback" and before is not None:
        tried = before.challenger or before.champion  # what was taken back
    record(
        settings,
        Decision(
            pipeline=pipeline,
            at_ms=now_ms,
            kind="rollout",
            decision=announcement.action,
            version=tried.version,
            champion=announcement.version,
            reason=announcement.reason,
            numbers={"announcement": announcement, "evidence": evidence},
        ),
    )
    return announcement


def existing(before: Announcement | None, pipeline: str) -> Announcement:
    """``before``, if anything serves.

    Raises:
        ModelError: nothing does.
    """
    if before is None:
        raise ModelError(
            f"could not change what answers for {pipeline}: no version is announced. "
            "`tidemill models promote` announces one."
        )
    return before


def unchanged(before: Announcement, seen_epoch: int) -> None:
    """Return if automation may act on what it has seen.

    Raises:
        ModelError: something else was announced since, or a person holds the rollout.
    """
    if before.held or before.epoch != seen_epoch:
        raise ModelError(
            f"could not act on epoch={seen_epoch} of {before.pipeline}: epoch={before.epoch} is "
            f"announced{', and held by a person' if before.held else ''}"
        )


def _loadable(registry: Registry, pipeline: str, version: str) -> NamedVersion:
    """Never announce what no worker will load."""
    digest = registry.digest(pipeline, version)
    registry.load(pipeline, version, digest=digest)
    return NamedVersion(version=version, digest=digest)


def objection(registry: Registry, pipeline: str, version: str, *, serving: str) -> str:
    """Why ``version`` may not replace ``serving`` without a person's word; empty if it may.

    Raises:
        ModelError: the verdict cannot be trusted.
    """
    if not serving or serving == version:
        return ""
    verdict: Verdict | None = registry.verdict(pipeline, version)
    if verdict is None:
        return "the gate was never asked about it"
    if not verdict.passed:
        return f"the gate refused it: {verdict.reason}"
    if verdict.champion != serving:
        return (
            f"it was compared with {verdict.champion or 'nothing'}, but {serving} serves now. "
            "Train again"
        )
    return ""


def record(settings: Settings, decision: Decision) -> None:
    """Put a decision into the store, if there is one.

    Raises:
        StoreUnavailable: the store does not answer; the decision stands all the same.
    """
    if not settings.clickhouse:
        return
    client = connect(settings)
    try:
        insert_decision(client, decision)
    finally:
        client.close()
    copy_if_any(settings)


def referenced(settings: Settings, pipeline: str) -> set[str]:
    """Versions that predictions in the store name.

    Raises:
        StoreUnavailable: the store does not answer, so nobody knows.
    """
    if not settings.clickhouse:
        raise StoreUnavailable(
            "could not tell which versions predictions name: no store is known here"
        )
    client = connect(settings)
    try:
        rows = client.query(
            "SELECT DISTINCT model_version FROM scored WHERE pipeline = {pipeline:String}",
            parameters={"pipeline": pipeline},
        ).result_rows
    finally:
        client.close()
    return {str(row[0]) for row in rows}


def garbage(
    registry: Registry,
    pipeline: str,
    *,
    serving: set[str],
    predicted: set[str],
    before_ms: int,
) -> list[str]:
    """Versions that nobody needs: none in ``serving``, nothing they lead back to (its predecessors
    and whose weights it began with), not named by a prediction, and trained before ``before_ms``.

    What is half uploaded or not trusted is not listed: it may be an upload that goes on, and a
    person should look at it.
    """
    needed = registry.needed(pipeline, serving) | predicted
    return [
        name
        for name, found in registry.survey(pipeline).items()
        if isinstance(found, Manifest) and name not in needed and found.trained_at_ms < before_ms
    ]


def in_use(announced: Announcement | None) -> set[str]:
    """Versions that workers hold now: champion, the one before, challenger."""
    if announced is None:
        return set()
    named = (announced.champion, announced.previous, announced.challenger)
    return {one.version for one in named if one is not None}
