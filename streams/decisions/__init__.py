"""Predictions that were made, looked at again.

* `explaining.py`  why one is what it is
* `rescoring.py`   the same once more, bit for bit
"""
