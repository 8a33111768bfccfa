"""Processes: the supervisor, its workers, and their number.

Imports the whole application; only `service.__main__` imports it.
"""
