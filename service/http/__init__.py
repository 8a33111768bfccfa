"""Requests and replies: connection, request context, bodies, schemas, API keys, and the middleware around endpoints.

Imports `service.monitoring`, `service.student` and the modules at the top of `service`.
"""
