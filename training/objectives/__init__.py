"""Losses, layer mappings, masking and task distillation.

Imports `training.models` and what that imports.
"""

from service.extras import require

require("training", "torch", "transformers", "accelerate", "tqdm")
