"""The same work by other means, each a process of its own: what Tidemill is compared with."""
