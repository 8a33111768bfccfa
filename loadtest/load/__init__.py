"""Load generators, the service that they load, and the times that they record.

Imports `service`; never torch.
"""
