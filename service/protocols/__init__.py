"""Protocols of other servers, spoken beside the service's own: Rasa's HTTP API, the V2 Open Inference Protocol.

Each module has the models of its requests and replies, its endpoints, and the shape of its errors. Texts take the path
of ``/v1/nlu``: the same permits, deadlines, metrics and limits.
"""
