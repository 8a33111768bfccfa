"""Turn a checkpoint into a quantised ONNX student folder. The command needs the extra `export`.

Imports `training` and `service.student`.
"""
