"""The worker processes of a pipeline, one room a role. Read `score.py` first.

* `process.py`  one process: waits for what it needs, runs a role in a Faust app until told to stop
* `score.py`    events in, predictions out; `scored_rows.py`, `arms.py`, `aging.py` and `shadow.py`
  serve it, `updates.py` and `learners.py` bring it new models and what has been learned
* `join.py`     predictions and labels in, examples out
* `learn.py`    examples in; a learner, its snapshots and what was observed out
* `land.py`     records into rows of ClickHouse
* `standing.py` which partitions a process has, or that it stands by
"""
