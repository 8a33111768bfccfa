"""Train, distil and evaluate students. The commands need the extra `training`; `data` and `evaluation` do not.

Imports `service.student` and `service.extras`. What needs torch says so when it is imported: `models`, `objectives` and
`runs` look for it first.
"""
