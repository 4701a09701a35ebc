"""Benchmarks: what the docs claim about speed, measured; each prints JSON. `python -m benchmarks.NAME`."""
