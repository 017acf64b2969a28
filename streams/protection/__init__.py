"""What is kept and what is erased: copies of what Kafka cannot give again, and a person's data.

* `backup.py`   a copy, and the way back from it
* `traces.py`   where a key is in the topics
* `erasure.py`  erases a key, and says what cannot be erased
"""
