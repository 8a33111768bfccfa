"""Measurements behind the documentation: overhead, other serving frameworks, Rasa, rejected export variants.

Run from a checkout, as `python -m benchmarks.floor`; not part of the wheel. May import everything.
"""
