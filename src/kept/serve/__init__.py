"""The server: every protocol is translated to one request, and one stream of events back.

app.py        routes, in the order of PROTOCOLS
guard.py      who may ask: key, host, origin; what is too large, too deep or too slow
openai/ ...   the wire of one protocol: its models, to an `Asked`, and from events
footprint.py  what a request was made of, to say where the next one differs
shelf.py      what is remembered of answers by their ids, bounded and each tenant's own
asked.py      what any protocol's request comes to
service.py    runs it: admission, tokens, the engine's thread, events
settings.py   the one table of settings
"""
