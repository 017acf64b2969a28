-- The truth as it was sent: every label and every correction. Readers take the highest revision.
-- No partitions: the time of a label is its sender's, and an insert over more partitions than one
-- would need as many places in the deduplication window.
CREATE TABLE IF NOT EXISTS {database}.labels {on_cluster}
(
    pipeline         LowCardinality(String),
    topic_partition  UInt32                  CODEC(T64, ZSTD(1)),
    topic_offset     UInt64                  CODEC(Delta, ZSTD(1)),
    event_id         String                  CODEC(ZSTD(1)),
    value            UInt8                   CODEC(ZSTD(1)),
    label_time       DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    revision         UInt32                  CODEC(T64, ZSTD(1)),
    produced_at      DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    landed_at        DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX event_id_bloom event_id TYPE bloom_filter GRANULARITY 4
)
ENGINE = {engine:MergeTree}
ORDER BY (pipeline, topic_partition, topic_offset)
TTL toDateTime(landed_at) + INTERVAL 400 DAY
SETTINGS {dedup};
