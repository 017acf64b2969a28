-- One row per prediction, with the features as the model saw them.
-- (pipeline, topic_partition, topic_offset) is the place in <pipeline>.scored that a row was landed
-- from; the rows of one message share it. A count over that range is how a restarted lander knows
-- what is already here, so it is the sort key.
-- Partitions and expiry follow predicted_at, our own clock: the same rows always fall into the same
-- partition, so a repeated insert is recognised, and a replay of old events is not dropped as old.
CREATE TABLE IF NOT EXISTS {database}.scored {on_cluster}
(
    pipeline         LowCardinality(String),
    topic_partition  UInt32                  CODEC(T64, ZSTD(1)),
    topic_offset     UInt64                  CODEC(Delta, ZSTD(1)),
    event_id         String                  CODEC(ZSTD(1)),
    key              String                  CODEC(ZSTD(1)),
    event_time       DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    produced_at      DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    predicted_at     DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    score            Float32                 CODEC(ZSTD(1)),
    model_version    LowCardinality(String),
    model_age_ms     Int64                   CODEC(Delta, ZSTD(1)),
    source_partition Int32                   CODEC(T64, ZSTD(1)),
    source_offset    Int64                   CODEC(Delta, ZSTD(1)),
    numeric          Array(Float32)          CODEC(ZSTD(1)),
    category         Array(String)           CODEC(ZSTD(1)),
    landed_at        DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX event_id_bloom event_id TYPE bloom_filter GRANULARITY 4
)
ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(predicted_at)
ORDER BY (pipeline, topic_partition, topic_offset)
TTL toDateTime(predicted_at) + INTERVAL 400 DAY
SETTINGS {dedup};
