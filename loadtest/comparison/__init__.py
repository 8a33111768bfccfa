"""The comparison of students: quality and cost as served, requirements, and the report.

Imports `loadtest.load`, `training.data` and `training.evaluation`; never torch.
"""
