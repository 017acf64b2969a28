-- The truth may be any number, not only 0 or 1.
ALTER TABLE {database}.labels {on_cluster}
    MODIFY COLUMN value Float64 CODEC(ZSTD(1));
