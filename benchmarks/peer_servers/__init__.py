"""Other serving frameworks around the same student, for ``python -m benchmarks.peers`` and ``benchmarks.rasa``.

| module | does |
|---|---|
| `catalogue` | the table of peers: versions, how each is asked, its two settings |
| `environments` | a virtual environment for each |
| `processes` | a server with all its processes: found, stopped for a moment, gone in the end |
| `wire` | what is sent, and where the reply holds the answer |
| `bench` | service, plain application and peer take turns |
| `serve` | starts a framework's server, in the framework's environment |
| `*_app` | one framework each: `serve(given)` serves, or returns the command that does |
| `answers` | what these import: student and answer |
| `torchserve_handler` | what TorchServe packs into its archive |
| `rasa_project` | Rasa's own project: trained, served and asked |
"""
