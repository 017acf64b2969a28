"""Batches and transactions for Faust: the only place that touches private names of Faust and
aiokafka.

Stock Faust turns every Kafka record into an event of its own, at 80 to 400 us CPU each. Here one
*drain* (all records that one fetch turn yields, over all partitions of the worker) is one event:
1 to 2 us CPU per record, with Faust's app, worker, agents, timers, tables and rebalancing as they
are. Ordinary topics keep working in the same app.

* `records.py`    what an agent receives: `Drain` and its `Run` per partition
* `fetch.py`      takes columns out of aiokafka's fetch results, and asks the group
* `consumer.py`   hands drains to agents, keeps the book of what is in flight, survives rebalances
* `driver.py`     plugs both into an app: `batch_topic`, `install`
* `wire.py`       two Kafka requests that aiokafka lacks (fenced transactional commit, stable fetch)
* `connection.py` what uvloop says of a closed connection, in aiokafka's words
* `commit.py`     group commit: outputs and offsets of many partitions in one fenced transaction
* `preflight.py`  waits for Kafka and checks every right before a worker starts
* `administration.py`  creates topics
* `private_names.py`   fails at import when an upgrade removed a name this package relies on
"""
