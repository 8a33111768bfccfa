"""The student folder and inference from it, usable without HTTP.

Imports numpy, onnxruntime, tokenizers and pydantic, and no other package of the project.
"""
