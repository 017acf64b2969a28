-- Every control action, copied from the topic tidemill.audit: entry holds the canonical bytes, digest
-- their SHA-256. Kept for good: it is little, and it is the record.
CREATE TABLE IF NOT EXISTS {database}.audit {on_cluster}
(
    number    UInt64                  CODEC(Delta, ZSTD(1)),
    at        DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    who       LowCardinality(String),
    action    LowCardinality(String),
    subject   String                  CODEC(ZSTD(1)),
    before    String                  CODEC(ZSTD(1)),
    after     String                  CODEC(ZSTD(1)),
    reason    String                  CODEC(ZSTD(1)),
    digest    String                  CODEC(ZSTD(1)),
    entry     String                  CODEC(ZSTD(1)),
    landed_at DateTime64(3, 'UTC')    DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY number
SETTINGS {dedup};
-- Which records had their rows erased, so that the books stay exact: places, nothing of a person.
CREATE TABLE IF NOT EXISTS {database}.erased {on_cluster}
(
    pipeline         LowCardinality(String),
    table_name       LowCardinality(String),
    topic            LowCardinality(String),
    source_partition Int32                   CODEC(T64, ZSTD(1)),
    source_offset    Int64                   CODEC(Delta, ZSTD(1)),
    receipt          String                  CODEC(ZSTD(1)),
    erased_at        DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY (pipeline, table_name, topic, source_partition, source_offset)
SETTINGS {dedup};
