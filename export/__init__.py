"""Turn a checkpoint into a quantised ONNX student folder.

Needs the extra `export`. Imports `training` and `service.student`.
"""
