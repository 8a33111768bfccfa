"""Serve quantised NLU students over HTTP. Imports neither torch, transformers, optimum nor onnx.

The way of a request, from socket to reply, and the module in which each step lives::

    __main__, process.*            processes, each with a socket and an event loop of its own
    http.connection, .request_response   HTTP/1.1 on one connection, under uvicorn's server; one request on it
    http.middleware                opens the request's context (id, deadline, timings), checks the key, finds the
                                   endpoint; turns every error into the shape of `errors`
    http.bodies, http.requests     read the body within its limits, parse it
    endpoints                      what the endpoint does: choose a student, admit the text, answer, shape the reply
    experiments.routing            which student: the one named, or an experiment's
    models.registry                the loaded students, their locales and remembered answers (`models.cache`)
    models.queue                   permits, the queue, deadlines, clients who left; on the loop or in a thread
    student.student                tokenise, run the graph, decode, calibrate
    http.replies                   the answer as JSON; the middleware sends it, `monitoring` counts it

The folders:

| folder | holds |
|---|---|
| `student/` | the student folder and what answers from it, without HTTP |
| `monitoring/` | metrics, drift, tracing |
| `http/` | connection, request context, bodies, schemas, replies, API keys, middleware |
| `models/` | the loaded students: registry, queue, answer cache, reload |
| `experiments/` | A/B routing, shadow traffic, users' dissatisfaction |
| `process/` | supervisor, workers, the number of processes |

At the top: the command, `app`, `endpoints`, `settings`, `errors`, `ask` and `watched_file`.
"""
