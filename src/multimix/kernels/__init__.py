"""Faster implementations of what `multimix.functional` defines, behind the same signatures."""
