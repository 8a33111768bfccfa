"""Load test of the service: a locust user, its own exact clock, and ``python -m loadtest`` around them.

| module | does |
|---|---|
| `__main__` | the command: starts a service if none is named, runs locust headless, prints table and JSON |
| `locustfile` | the locust user; also for ``locust -f loadtest/locustfile.py`` with the web page |
| `options` | the options that both have in common |
| `texts` | the utterances that are sent |
| `pacing` | when each user is due |
| `replies` | what a valid reply is; the ``Server-Timing`` header |
| `recorder` | durations, bounded in memory and finer than locust's own |
| `report` | figures as a table |
| `target` | the service that is tested: started, ready, which texts it can be asked about |
| `headless` | locust as a subprocess |
| `floor` | the command ``python -m loadtest.floor``: the service against the bare model, as ratios of one run |
| `floor_report` | its figures, targets and table |
| `closed_loop` | the load generator of the floor: lean connections, each as busy as it can be |
| `plain` | a student in an ordinary FastAPI application, to compare with |

Only `locustfile` imports locust, which patches the standard library of the process that imports it.
"""
