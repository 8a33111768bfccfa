"""Load tests of the service, and comparisons of students through it. Needs the extra `loadtest`; never torch.

| place | holds |
|---|---|
| `__main__`, `locustfile` | ``python -m loadtest`` and the locust user behind it |
| `compare` | ``python -m loadtest.compare``: which student is good enough; its parts are in `comparison/` |
| `experiment` | ``python -m loadtest.experiment``: which arm of an experiment serves its users better |
| `population` | ``python -m loadtest.population``: simulated users of an experiment |
| `shadow` | ``python -m loadtest.shadow``: what a shadow costs |
| `experiments/` | arms, statistics, users and report of these three |
| `load/` | shared by all commands: load generators, servers, texts, flags |
"""
