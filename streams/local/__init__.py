"""The embedded broker, the embedded store and the process tree of ``tidemill up``."""
