"""Serve quantised NLU students over HTTP. Imports neither torch nor transformers."""
