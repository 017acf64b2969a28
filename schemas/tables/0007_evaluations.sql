-- How good the predictions of a window of event time are, as increments: sum them. No partitions: a
-- late truth adds to an old window, and one message may add to many.
CREATE TABLE IF NOT EXISTS {database}.evaluations {on_cluster}
(
    pipeline                  LowCardinality(String),
    topic_partition           UInt32               CODEC(T64, ZSTD(1)),
    topic_offset              UInt64               CODEC(Delta, ZSTD(1)),
    window_start              DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    window_ms                 Int64                CODEC(Delta, ZSTD(1)),
    subject_kind              LowCardinality(String),
    subject                   LowCardinality(String),
    model_version             LowCardinality(String),
    predictions               Int64                CODEC(T64, ZSTD(1)),
    labels                    Int64                CODEC(T64, ZSTD(1)),
    provisional               Int64                CODEC(T64, ZSTD(1)),
    corrected                 Int64                CODEC(T64, ZSTD(1)),
    expired                   Int64                CODEC(T64, ZSTD(1)),
    evicted                   Int64                CODEC(T64, ZSTD(1)),
    correct                   Int64                CODEC(T64, ZSTD(1)),
    positives                 Int64                CODEC(T64, ZSTD(1)),
    predicted_positives       Int64                CODEC(T64, ZSTD(1)),
    log_loss                  Decimal(38, 9)       CODEC(ZSTD(1)),
    squared_error             Decimal(38, 9)       CODEC(ZSTD(1)),
    absolute_error            Decimal(38, 9)       CODEC(ZSTD(1)),
    estimated_correct         Decimal(38, 9)       CODEC(ZSTD(1)),
    estimated_log_loss        Decimal(38, 9)       CODEC(ZSTD(1)),
    estimated_squared_error   Decimal(38, 9)       CODEC(ZSTD(1)),
    checked                   Int64                CODEC(T64, ZSTD(1)),
    checked_correct           Int64                CODEC(T64, ZSTD(1)),
    checked_estimated_correct Decimal(38, 9)       CODEC(ZSTD(1)),
    score_bins                Array(UInt16)        CODEC(ZSTD(1)),
    bin_positives             Array(Int64)         CODEC(ZSTD(1)),
    bin_negatives             Array(Int64)         CODEC(ZSTD(1)),
    delay_bins                Array(UInt16)        CODEC(ZSTD(1)),
    delay_counts              Array(Int64)         CODEC(ZSTD(1)),
    stability                 Nullable(Float64)    CODEC(ZSTD(1)),
    landed_at                 DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
ORDER BY (pipeline, topic_partition, topic_offset)
TTL toDateTime(landed_at) + INTERVAL 400 DAY
SETTINGS {dedup};
