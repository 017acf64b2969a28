-- What became of each prediction, step by step: every row of <pipeline>.examples but `pending` ones,
-- which say no more than `scored` does. Features and scores are there, under the same
-- (source_partition, source_offset).
-- produced_at is when the step was taken, by the joiner's clock: the same rows always fall into the
-- same partition, so a repeated insert is recognised.
CREATE TABLE IF NOT EXISTS {database}.examples {on_cluster}
(
    pipeline         LowCardinality(String),
    topic_partition  UInt32                  CODEC(T64, ZSTD(1)),
    topic_offset     UInt64                  CODEC(Delta, ZSTD(1)),
    event_id         String                  CODEC(ZSTD(1)),
    kind             LowCardinality(String),
    label            Nullable(Float64)       CODEC(ZSTD(1)),
    previous         Nullable(Float64)       CODEC(ZSTD(1)),
    label_time       Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    revision         UInt32                  CODEC(T64, ZSTD(1)),
    delay_ms         Nullable(Int64)         CODEC(ZSTD(1)),
    source_partition Int32                   CODEC(T64, ZSTD(1)),
    source_offset    Int64                   CODEC(Delta, ZSTD(1)),
    produced_at      DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    landed_at        DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX event_id_bloom event_id TYPE bloom_filter GRANULARITY 4
)
ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(produced_at)
ORDER BY (pipeline, topic_partition, topic_offset)
TTL toDateTime(produced_at) + INTERVAL 400 DAY
SETTINGS {dedup};
