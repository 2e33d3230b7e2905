"""Outcome of a quickstart (`study/sweep/quickstart.py`)."""
