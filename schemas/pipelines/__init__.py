"""The ready pipelines, one small file each."""
