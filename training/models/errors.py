"""What can be wrong with the files of a model."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A folder that is no usable checkpoint; the message names it and what is missing or wrong."""
