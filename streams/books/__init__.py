"""The books: what went in, what came out, and what is still on its way. They believe no worker.

* `committed.py`  topics as a careful consumer reads them; `sources.py` which record speaks of which
* `balance.py`    where every prediction and every label is
* `reconcile.py`  all of it at once, against the rows of the store
* `permanent_check.py`  the same for ever and a piece at a time; `checked.py` is what it keeps
* `lag.py`        how far behind each step is
"""
