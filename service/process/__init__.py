"""Processes: the supervisor, its workers, and how many of them there should be.

Imports the whole application; nothing but `service.__main__` imports it.
"""
