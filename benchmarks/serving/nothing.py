"""A server that turns everything away and does nothing else: what asking it takes is the client's
and the system's share of a load of refused requests.

    python benchmarks/serving/nothing.py        # prints its port
"""

from __future__ import annotations

import selectors
import socket

BODY = b'{"error":{"message":"there is nothing here"}}'
ANSWER = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                selector.register(connection, selectors.EVENT_READ)
                continue
            assert isinstance(key.fileobj, socket.socket)
            if key.fileobj.recv(1 << 16):  # requests of this benchmark come in one piece
                key.fileobj.sendall(ANSWER)
            selector.unregister(key.fileobj)
            key.fileobj.close()


if __name__ == "__main__":
    main()
