-- What people are told about: one row for each change of an alert, the newest (by sequence) holds.
-- Written by `tidemill alerts run`, and read by it when it starts, so that nobody is told twice.
CREATE TABLE IF NOT EXISTS {database}.alerts {on_cluster}
(
    pipeline   LowCardinality(String),
    rule       LowCardinality(String),
    sequence   UInt64                  CODEC(Delta, ZSTD(1)),
    at         DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    state      LowCardinality(String),
    severity   LowCardinality(String),
    since      DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    started    DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    value      Nullable(Float64)       CODEC(ZSTD(1)),
    bound      String                  CODEC(ZSTD(1)),
    detail     String                  CODEC(ZSTD(1)),
    summary    String                  CODEC(ZSTD(1)),
    notices    UInt32,
    record     String                  CODEC(ZSTD(1)),
    landed_at  DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY (pipeline, rule, sequence)
TTL toDateTime(landed_at) + INTERVAL 400 DAY
SETTINGS {dedup};
-- Who asked to be left in peace about what, until when and why; the newest row of an id holds.
CREATE TABLE IF NOT EXISTS {database}.silences {on_cluster}
(
    id         String,
    at         DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    pipeline   String                  CODEC(ZSTD(1)),
    rule       String                  CODEC(ZSTD(1)),
    until      DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    reason     String                  CODEC(ZSTD(1)),
    author     String                  CODEC(ZSTD(1)),
    landed_at  DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY (id, at)
TTL toDateTime(landed_at) + INTERVAL 400 DAY
SETTINGS {dedup};
-- One row per round of the permanent check of the books. `exact_at` is when they were last exact;
-- `cursor` is JSON: up to where everything was checked, and where something was found.
CREATE TABLE IF NOT EXISTS {database}.reconciliations {on_cluster}
(
    pipeline   LowCardinality(String),
    at         DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    exact      Bool,
    exact_at   Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    events     UInt64                  CODEC(T64, ZSTD(1)),
    labels     UInt64                  CODEC(T64, ZSTD(1)),
    missing    UInt64                  CODEC(T64, ZSTD(1)),
    doubled    UInt64                  CODEC(T64, ZSTD(1)),
    unchecked  UInt64                  CODEC(T64, ZSTD(1)),
    took_ms    UInt64                  CODEC(T64, ZSTD(1)),
    findings   String                  CODEC(ZSTD(1)),
    cursor     String                  CODEC(ZSTD(1)),
    landed_at  DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY (pipeline, at)
TTL toDateTime(landed_at) + INTERVAL 400 DAY
SETTINGS {dedup};
