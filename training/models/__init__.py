"""The student encoder, its sizes, pretrained encoders, checkpoints, batches and predictions.

Imports `training.data`, `training.evaluation` and `training.text`.
"""
