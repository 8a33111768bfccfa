"""Other serving frameworks around the same student, for ``python -m benchmarks.peers`` and ``benchmarks.rasa``.

| module | does |
|---|---|
| `catalogue` | the table of peers: versions, request format, settings |
| `environments` | a virtual environment for each |
| `processes` | a server with all its processes: find, suspend, stop |
| `wire` | request and reply formats |
| `bench` | measures service, plain application and peer in turns |
| `serve` | starts a framework's server, in the framework's environment |
| `*_app` | one framework each: `serve(options)` serves, or returns the command that does |
| `answers` | the student's answers, imported by these |
| `torchserve_handler` | the handler in TorchServe's archive |
| `rasa_project` | training, serving and querying a Rasa project |
"""
