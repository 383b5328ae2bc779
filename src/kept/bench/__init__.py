"""Measurements: what the cache is worth on this machine, beside the machine's own limit."""
