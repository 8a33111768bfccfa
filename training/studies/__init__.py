"""Recipes of several runs: stages, their ledger and scheduler, reports and figures.

Imports everything else of `training` but its commands, which it starts as processes.
"""
