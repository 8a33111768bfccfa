"""Train, distil and evaluate students. Needs the extra `training`."""

from importlib.util import find_spec

for _module in ("accelerate", "torch", "transformers", "tqdm"):
    if find_spec(_module) is None:
        raise SystemExit(f"{_module} is not installed: pip install 'distilled-nlu[training]' (or make test)")
