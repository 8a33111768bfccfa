"""Plain text: corpora, transfer sets and the tokenizer.

Imports `training.data`.
"""
