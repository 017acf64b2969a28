"""All targets, by name."""

from tests.fuzz import arrow, control, environment, files, http, json_records, sql, trust
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        json_records.EVENTS, json_records.LABEL,
        control.ANNOUNCEMENT, control.LEARNER_HEADER, control.ALARM,
        arrow.SCORED_ROWS, arrow.EXAMPLE_ROWS, arrow.EVALUATION_ROWS,
        files.FILES, files.VERDICTS, files.LEDGER, files.POINTER, files.PENDING, files.ENVELOPE,
        files.PICKLE,
        trust.AUDIT, trust.RECEIPTS, trust.KEYS, trust.BACKUPS,
        http.HTTP, sql.STATEMENT, sql.PACKED, environment.SETTINGS,
    )
}  # fmt: skip
