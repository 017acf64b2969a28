-- What the deep model said alone, and how far the online learner that helped had learned. Rows from
-- before there were learners were served by the model alone.
ALTER TABLE {database}.scored {on_cluster}
    ADD COLUMN IF NOT EXISTS model_score      Float32 DEFAULT score CODEC(ZSTD(1)) AFTER score,
    ADD COLUMN IF NOT EXISTS learner_position Int64   DEFAULT -1    CODEC(ZSTD(1)) AFTER model_score;
