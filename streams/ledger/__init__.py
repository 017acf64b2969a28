"""The label ledger: what a prediction waits for, and how its state survives. No Kafka, no clock."""
