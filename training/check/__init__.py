"""The report on labelled data: what contradicts itself, leaks, is rare, confused or probably mislabelled. No PyTorch.

Each check is a function from utterances to findings, which name utterances by their position.
"""
