"""Faust agents and everything that runs beside them.

Read `score.py` first: the rest of this package serves it or follows it.
"""
