"""Load generators, the service that they load, the times that they record, and the flags of all commands.

Imports `service`; never torch. Only `step_load` and `loadtest.locustfile` import locust, which patches the standard
library of the process that imports it.
"""
