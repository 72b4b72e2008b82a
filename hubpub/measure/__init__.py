"""Numbers from real clients: runs, metrics, statistics."""
