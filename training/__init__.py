"""Train, distil and evaluate students. The commands need the extra `training`; `data` and `evaluation` do not.

Imports `service.student` and `service.extras`. The commands at the top are thin: a command parses its flags, looks for
the extra, and calls a function of `runs` or `studies`.
"""
