"""Metrics, drift and tracing.

Imports `service.student` and `service.errors`.
"""
