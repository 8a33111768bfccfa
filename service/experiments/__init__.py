"""A/B experiments, shadow traffic and user dissatisfaction.

Imports `service.models` and what that imports.
"""
