"""Faust agents and everything that runs beside them.

Read `workers/score.py` first. Below it `transport` moves batches and commits them, `ledger` waits
for labels, `store` is ClickHouse. Beside it `rollout` brings a better model, `control` says which
one answers, and `books` counts whether anything is lost. Around them `local` runs all of it on one
machine, and `cli`, `dashboard`, `client`, `metrics` and `alerts` are what people see.
"""
