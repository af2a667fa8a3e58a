"""Evaluation: protocols read from disk, and pure metrics over scores."""
