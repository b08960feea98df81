"""Benchmarks: how time and memory grow, and the check of a machine with a GPU."""
