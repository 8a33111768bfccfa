"""Serve quantised NLU students over HTTP. Imports neither torch, transformers, optimum nor onnx.

The path of a text of ``POST /v1/nlu`` from socket to reply; a test checks it::

    http.connection        HTTP/1.1 on one connection: parses heads, keeps the order of pipelined requests
    http.cycle             one request and its reply, as the ASGI application sees them
    http.middleware        request id, deadline, API key; dispatches to the endpoint; turns every error into a reply
    http.requests          reads the body within its limits and parses it
    endpoints              requests the answer and builds the reply's body
    experiments.routing    chooses the student: the one named, that of an experiment's arm, or the default
    models.queue           admits the text or refuses it; checks it against the student; answer cache, queue, deadline
    student.predictor      runs the graph, one text at a time
    student.tokenization   text to tokens and words
    student.decoding       logits to labels and slots; decides whether the text is in scope

The reply returns through `endpoints` and `http.middleware`, and is written by `http.connection`. After that the
middleware runs the deferred work: metrics, the turn of an experiment, shadow traffic, tracing.

The folders, each of which imports only those above it:

| folder | holds |
|---|---|
| `student/` | the student folder and the student loaded from it, without HTTP |
| `monitoring/` | metrics, drift, tracing |
| `http/` | connection, middleware, request context, bodies, schemas, API keys |
| `models/` | the loaded students: registry, queue, permits, answer cache, reload |
| `experiments/` | A/B routing, shadow traffic, user dissatisfaction |
| `protocols/` | Rasa's HTTP API and the V2 Open Inference Protocol |
| `page/` | the web page |
| `process/` | supervisor, workers, the number of processes; imports `app`, too |

At the top: `errors`, `settings` and `watched_file`, which every folder may import; `endpoints` and `app` above
`experiments/`; the commands `__main__`, `ask` and `wyoming`.
"""
