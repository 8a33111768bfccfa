"""Turn a checkpoint into a quantised ONNX student folder. Needs the extra `export`."""

from importlib.util import find_spec

for _module in ("torch", "onnx", "optimum"):
    if find_spec(_module) is None:
        raise SystemExit(f"{_module} is not installed: pip install 'distilled-nlu[export]' (or make test)")
