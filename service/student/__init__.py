"""The student folder and what answers from it; usable without HTTP.

Imports numpy, onnxruntime, tokenizers and pydantic, and nothing else of the project.
"""
