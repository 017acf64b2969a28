"""The pages at http://127.0.0.1:8200: what flows, how good it is, which model answers, and why.

A process of its own. It owns nothing: it reads the store, Kafka's offsets and the reports of the
workers, and acts through the commands that a person would type. If it dies, nothing else notices.
"""
