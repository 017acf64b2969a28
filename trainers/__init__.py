"""One training job: rows in, a model version or a reason out."""
