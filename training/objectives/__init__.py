"""Losses, layer mappings, masking and task distillation.

Imports `training.models` and what that imports.
"""
