"""Utterances, the readers of each format, annotation, labels, augmentation.

Imports `service.student`; never torch.
"""
