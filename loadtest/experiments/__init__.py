"""The analysis of experiments on live traffic, simulated users, and the cost of a shadow.

Imports `loadtest.load` and `service`; never torch.
"""
