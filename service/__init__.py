"""Serve quantised NLU students over HTTP. Imports neither torch nor transformers.

The way of a request, from socket to reply, and the module in which each step lives::

    __main__, supervisor, worker   processes, each with a socket and an event loop of its own
    protocol, exchange             HTTP/1.1 on one connection, under uvicorn's server; one request on it
    boundary                       opens a `call.Call` (id, deadline, timings: all that is known of the request),
                                   checks the key, finds the endpoint; turns every error into the shape of `errors`
    bodies, requests               read the body within its limits, parse it
    api                            what the endpoint does: choose a student, admit the text, answer, shape the reply
    traffic                        which student: the one named, or an `experiment`'s; then `friction`, a `shadow`
    engine                         the loaded students, their locales and remembered answers (`cache`)
    lanes                          permits, the queue, deadlines, clients who left; on the loop or in a thread
    student                        tokenise (`tokenization`), run the graph, decode (`decoding`, `calibration`)
    replies, schemas               the answer as JSON; `boundary` sends it, `metrics` count it, `tracing` may tell of it

Beside that way: `manifest` (the student folder's schema), `reloading`, `settings`, `keys`,
`watched` (files read again when they change), `drift`, `reference` (a docs page).
"""
