"""What Tidemill says to Prometheus.

`catalogue` names every metric, `exposition` turns what a process has counted into text, `endpoint`
serves it, and `outside` looks at what no worker can say of itself: how far behind it is.
"""
