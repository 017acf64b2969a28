"""Benchmarks that a stranger can run: `tidemill bench NAME`, `make bench`.

Every benchmark starts a broker and a store of its own, measures the shipped workers as separate
processes, checks counts and sums outside of the timed window, and runs what it is compared with on
the same machine in the same minutes. Two cores shared with other work give rates that vary by half:
compare ratios within one run, and CPU time per event.

* `stand.py`, `sampling.py`, `reading.py`  the ground: servers and workers, CPU over a window, what
  a client that is not ours reads back
* `consume.py`, `score.py`, `land.py`, `path.py`, `latency.py`, `first.py`, `memory.py`,
  `profile.py`  the measurements
* `rivals/`  programs that do the same work by other means
* `result.py`, `report.py`, `plot.py`, `gate.py`  what was found, as a table, as JSON, as a picture,
  and against the committed ratios
"""
