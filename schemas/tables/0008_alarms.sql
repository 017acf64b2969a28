-- One row per alarm, with what it was raised on.
CREATE TABLE IF NOT EXISTS {database}.alarms {on_cluster}
(
    pipeline          LowCardinality(String),
    topic_partition   UInt32               CODEC(T64, ZSTD(1)),
    topic_offset      UInt64               CODEC(Delta, ZSTD(1)),
    alarm_id          String               CODEC(ZSTD(1)),
    detector          LowCardinality(String),
    subject           LowCardinality(String),
    model_version     LowCardinality(String),
    event_time        DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    source_partition  Int32                CODEC(T64, ZSTD(1)),
    source_offset     Int64                CODEC(Delta, ZSTD(1)),
    shard             Int32                CODEC(T64, ZSTD(1)),
    statistic         Float64              CODEC(ZSTD(1)),
    threshold         Float64              CODEC(ZSTD(1)),
    before            Nullable(Float64)    CODEC(ZSTD(1)),
    after             Nullable(Float64)    CODEC(ZSTD(1)),
    rows_before       Int64                CODEC(T64, ZSTD(1)),
    rows_after        Int64                CODEC(T64, ZSTD(1)),
    false_alarm_every Int64                CODEC(T64, ZSTD(1)),
    produced_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    landed_at         DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY (pipeline, topic_partition, topic_offset)
TTL toDateTime(landed_at) + INTERVAL 400 DAY
SETTINGS {dedup};
