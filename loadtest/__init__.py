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
| `floor` | the command ``python -m benchmarks.floor``: the service against the bare model, as ratios of one run |
| `floor_report` | its figures, targets and table |
| `closed_loop` | the load generator of the floor: lean connections, each as busy as it can be |
| `plain` | a student in an ordinary FastAPI application, to compare with |
| `compare` | the command ``python -m loadtest.compare``: which student is good enough |
| `serving` | what serving a student costs |
| `quality` | what a service answers to labelled utterances |
| `memory` | of a process and those below it |
| `requirements` | what a student must reach |
| `compare_report` | its figures, and which student to take; shown by `compare_text` and `compare_figures` |
| `document` | a report as Markdown and as a page |
| `peers` | the command ``python -m benchmarks.peers``: the same student behind other serving frameworks |
| `peers_report` | its ratios, table and report |
| `peer_servers` | one module for each framework, and what starts, asks, measures and stops them |
| `rasa` | the command ``python -m benchmarks.rasa``: Rasa NLU as a whole product beside students |
| `step_load` | locust's shape for a load that grows in steps |
| `experiment` | the command ``python -m loadtest.experiment``: which arm of an experiment serves its users better |
| `arms` | what was counted of the arms, read from a service, a file or Prometheus |
| `verdict` | the statistics of their comparison |
| `population` | the command ``python -m loadtest.population``: simulated users, not all of them satisfied |
| `users` | what these users do |
| `shadow` | the command ``python -m loadtest.shadow``: what a shadow costs those who wait |
| `shadow_report` | its figures and table |
| `open_loop` | requests at a rate, whatever the service does |

Only `locustfile` imports locust, which patches the standard library of the process that imports it.
"""
