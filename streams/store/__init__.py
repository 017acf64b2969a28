"""ClickHouse: the client every worker uses, the tables, and the embedded server (`gateway`)."""
