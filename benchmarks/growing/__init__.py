"""The rows of ``benchmarks/growth.py``: what grows with data, shards, runs and their records."""
