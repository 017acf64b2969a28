"""Who may become the champion: a version that the gate passed against the present one, or one that
a person forces, with a reason that is kept.
"""

import asyncio

from models.registry import Registry, open_registry
from schemas.errors import ModelError, StoreUnavailable
from schemas.manifest import Announcement, Manifest
from schemas.settings import Settings
from schemas.training import Verdict
from streams.announce import announce, champion
from streams.store.client import connect
from streams.store.runs import Decision, insert_decision


def promote(
    settings: Settings, pipeline: str, version: str, *, now_ms: int, force_reason: str = ""
) -> Announcement:
    """Announce ``version`` with a higher epoch, so that workers serve it.

    Args:
        settings: Where everything is.
        pipeline: Whose.
        version: Which.
        now_ms: Of the announcement.
        force_reason: Why a person overrules the gate; empty: nobody does.

    Raises:
        ModelError: there is no such version, it is not trusted, or the gate did not pass it
            against what serves now.
        KafkaUnavailable, StoreUnavailable, SetupError: it could not be announced or recorded.
    """
    registry = open_registry(settings)
    digest = registry.digest(pipeline, version)
    registry.load(pipeline, version, digest=digest)  # never announce what no worker will load
    serving = asyncio.run(champion(settings, pipeline))
    before = "" if serving is None else serving.version
    why_not = objection(registry, pipeline, version, serving=before)
    if why_not and not force_reason:
        raise ModelError(
            f"could not promote version={version} of {pipeline}: {why_not}. A person who knows "
            "better says --force and a --reason."
        )
    announcement = announce(
        settings, pipeline=pipeline, version=version, digest=digest, now_ms=now_ms
    )
    record(
        settings,
        Decision(
            pipeline=pipeline,
            at_ms=now_ms,
            kind="promotion",
            decision="forced" if why_not else "promoted",
            version=version,
            champion=before,
            reason=f"{force_reason} (although {why_not})" if why_not else force_reason,
            numbers=announcement,
        ),
    )
    return announcement


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
    serving: str,
    predicted: set[str],
    before_ms: int,
) -> list[str]:
    """Versions that nobody needs: not the champion, nothing it leads back to (its predecessors
    and whose weights it began with), not named by a prediction, and trained before ``before_ms``.

    What is half uploaded or not trusted is not listed: it may be an upload that goes on, and a
    person should look at it.
    """
    needed = registry.needed(pipeline, {serving} if serving else set()) | predicted
    return [
        name
        for name, found in registry.survey(pipeline).items()
        if isinstance(found, Manifest) and name not in needed and found.trained_at_ms < before_ms
    ]
