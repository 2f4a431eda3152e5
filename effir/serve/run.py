"""Run the service until it is told to stop; it finishes what it began."""

import signal
import socket
from collections.abc import Callable
from typing import Any

from effir.errors import EffirError

KEEP_SECONDS = 75
"""How long a client that says nothing keeps its connection."""
FINISH_SECONDS = 30
"""How long what was begun may take after the signal to stop."""


def listen(host: str, port: int) -> socket.socket:
    """Take an address, any free port where it is 0; EffirError where it is taken, or none of this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # TCP by name: over no other socket asyncio sends each packet at once, and the second waits 40 ms.
        place = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, port))
        place.listen(1024)  # who comes before the service is up waits for it
    except OSError as error:
        raise EffirError(
            f"{host}:{port} cannot be served at ({error.strerror}): name another --host or --port"
        ) from None
    return place


def serve(app: Any, place: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve an application at ``place``; ``ready`` hears the address. SIGTERM or Ctrl-C ends it in order."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=FINISH_SECONDS, timeout_keep_alive=KEEP_SECONDS
    )
    host, port = place.getsockname()[:2]
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    for stop in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what stopped it once more when it has finished
        signal.signal(stop, lambda number, frame: None)
    uvicorn.Server(config).run(sockets=[place])
