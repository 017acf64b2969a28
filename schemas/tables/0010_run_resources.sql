-- How a training stepped and what it used: units as in schemas/training.py.
ALTER TABLE {database}.runs {on_cluster}
    ADD COLUMN IF NOT EXISTS learning_rate Nullable(Float64) AFTER seconds_left,
    ADD COLUMN IF NOT EXISTS gradient_norm Nullable(Float64) AFTER learning_rate,
    ADD COLUMN IF NOT EXISTS cpu_cores     Nullable(Float64) AFTER gradient_norm,
    ADD COLUMN IF NOT EXISTS memory_bytes  Nullable(UInt64)  AFTER cpu_cores;
