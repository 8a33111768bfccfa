"""Measurements behind the documentation: the floor, other serving frameworks, Rasa, rejected export variants.

Run from a checkout, as `python -m benchmarks.floor`; not part of the wheel. May import everything.
"""
