"""Metrics, drift and tracing: what the service tells about itself.

Imports `service.student` and `service.errors`.
"""
