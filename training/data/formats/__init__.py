"""Readers of labelled data, one module for each family of formats; writers; what they share.

`registry` has the formats by name and detects them by content. `base` says what a reader takes and gives. Imports
`training.data.utterances`, `annotation` and `locales`; never torch.
"""
