"""Looks for what the extra `export` installs; the command imports this before anything that needs it."""

from service.extras import require

require("export", "onnx", "optimum", "torch", "transformers", "tqdm")
