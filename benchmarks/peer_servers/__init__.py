"""Other serving frameworks around the same student, for ``python -m benchmarks.peers``.

| module | does |
|---|---|
| `catalogue` | the table of peers: versions, how each is asked, its two settings |
| `environments` | a virtual environment for each |
| `processes` | a server with all its processes: found, stopped for a moment, gone in the end |
| `wire` | what is sent, and where the reply holds the answer |
| `bench` | service, plain application and peer take turns |
| `answers` | what the peers' own processes import: command line, student, answer |
| `fastapi_app` | the control: the plain application, started as a peer |
| `litserve_app`, `bentoml_app`, `mlserver_app`, `ray_app`, `torchserve_app`, `triton_app` | one framework each |
| `torchserve_handler` | what TorchServe packs into its archive |
| `rasa_project` | Rasa's own project, trained, served and asked, for ``python -m benchmarks.rasa`` |

The modules named after frameworks run in the framework's environment, with the checkout on the path.
"""
