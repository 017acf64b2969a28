"""From data that drifts to a better model that answers: when to train, how, and what passes.

* `triggers.py`    whether to train again, with the reason; `facts.py` asks the store for numbers
* `retraining.py`  jobs of training, seen from outside
* `promotion.py`   who may become the champion
* `judging.py`     watches a rollout and takes its steps
* `delivery.py`    all of it, unattended
"""
