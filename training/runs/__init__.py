"""What training commands share: the loop, its schedule, settings and exact resume.

Imports `training.objectives` and what that imports.
"""
