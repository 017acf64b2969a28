-- How every training went, line by line, while it goes.
CREATE TABLE IF NOT EXISTS {database}.runs {on_cluster}
(
    pipeline        LowCardinality(String),
    run             String                  CODEC(ZSTD(1)),
    at              DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    state           LowCardinality(String),
    detail          String                  CODEC(ZSTD(1)),
    attempt         UInt32,
    ranks           UInt32,
    epoch           UInt32,
    epochs_max      UInt32,
    step            UInt64,
    steps_max       UInt64,
    training_loss   Nullable(Float64),
    validation_loss Nullable(Float64),
    examples_per_s  Nullable(Float64),
    seconds_left    Nullable(Float64),
    landed_at       DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY (pipeline, run, at)
TTL toDateTime(landed_at) + INTERVAL 400 DAY
SETTINGS {dedup};
-- What was decided about models and why, by people and by rules: what a trigger said (kind
-- 'trigger'), what the gate said ('gate'), which version was made to serve ('promotion'). numbers is
-- JSON: everything the decision rests on. Kept for good: it is little, and it is the record.
CREATE TABLE IF NOT EXISTS {database}.decisions {on_cluster}
(
    pipeline   LowCardinality(String),
    at         DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    kind       LowCardinality(String),
    version    String                  CODEC(ZSTD(1)),
    champion   String                  CODEC(ZSTD(1)),
    decision   LowCardinality(String),
    reason     String                  CODEC(ZSTD(1)),
    numbers    String                  CODEC(ZSTD(1)),
    landed_at  DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY (pipeline, at, kind)
SETTINGS {dedup};
