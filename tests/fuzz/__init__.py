"""Every door that takes bytes from outside, with a million inputs each.

One file per kind of door; each declares a `Target` whose ``check`` gets any bytes and fails when the
door breaks its contract. The short round is `test_fuzz.py`; `python -m tests.fuzz --count 1000000`
is the long one, and `make fuzz` calls it.
"""
