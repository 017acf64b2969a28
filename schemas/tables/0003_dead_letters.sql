-- Records that could not be used, whole: value and key hold the bytes as they were (String is bytes).
CREATE TABLE IF NOT EXISTS {database}.dead_letters {on_cluster}
(
    pipeline         LowCardinality(String),
    topic_partition  UInt32                  CODEC(T64, ZSTD(1)),
    topic_offset     UInt64                  CODEC(Delta, ZSTD(1)),
    reason           LowCardinality(String),
    detail           String                  CODEC(ZSTD(1)),
    source_topic     LowCardinality(String),
    source_partition Int32                   CODEC(T64, ZSTD(1)),
    source_offset    Int64                   CODEC(Delta, ZSTD(1)),
    key              Nullable(String)        CODEC(ZSTD(1)),
    value            Nullable(String)        CODEC(ZSTD(1)),
    produced_at      DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    landed_at        DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY (pipeline, topic_partition, topic_offset)
TTL toDateTime(landed_at) + INTERVAL 400 DAY
SETTINGS {dedup};
