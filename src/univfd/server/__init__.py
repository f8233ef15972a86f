"""The service: verdicts over HTTP (extra `server`).

`app.create_app` is the whole of it as an ASGI application; `running.run` serves one or several processes of it. The way
of a request: guards (host, origin, key, rate) - upload, counted while it streams - decoding in threads - `Engine`, one
thread that puts images of all requests into batches - the row that `univfd detect` writes. Images are held in memory,
never stored or logged, except where feedback is switched on and asked for.
"""
