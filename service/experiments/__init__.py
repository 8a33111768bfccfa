"""A/B experiments, shadow traffic and the signs that users are dissatisfied.

Imports `service.models` and what that imports.
"""
