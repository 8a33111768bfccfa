"""The loaded students: registry, queue with deadlines, answer cache, reload.

Imports `service.http`, `service.monitoring` and `service.student`.
"""
