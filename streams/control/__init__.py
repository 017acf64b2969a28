"""Control records: which version answers, who said so, and who may.

* `writer.py`    the one writer at a time, and the audit entry of each of its writes
* `announce.py`  the announcements that workers follow
* `audit.py`     every control action, chained
* `rights.py`    the least rights that each role needs on the brokers
"""
