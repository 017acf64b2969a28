"""The embedded ClickHouse: one process owns chDB and speaks the ClickHouse HTTP interface.

Any ClickHouse client reads and writes through it at the same time. It stands alone: nothing in it
knows Kafka, pipelines or this project's tables.
"""
