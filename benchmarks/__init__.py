"""Benchmarks: a recipe in, a raw record out (`records/`), reports derived from it."""
