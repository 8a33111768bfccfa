"""Every metric of quality, paired comparison and intervals.

Imports `training.data` and `service.student`; never torch.
"""
