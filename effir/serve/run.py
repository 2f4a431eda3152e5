"""Run the service until a signal stops it; it finishes the requests that it has begun."""

import signal
import socket
from collections.abc import Callable
from typing import Any

from effir.errors import EffirError

KEEP_SECONDS = 75  # how long an idle client keeps its connection
FINISH_SECONDS = 30  # how long running requests may take after the signal to stop


def listen(host: str, port: int) -> socket.socket:
    """Bind an address, with port 0 any free port; EffirError if it is in use or not an address of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # TCP by name: only then asyncio sets TCP_NODELAY. Without it the second packet of an answer waits 40 ms.
        place = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, port))
        place.listen(1024)  # clients that connect before the service is up wait for it
    except OSError as error:
        raise EffirError(
            f"the service cannot listen at {host}:{port} ({error.strerror}): choose another --host or --port"
        ) from None
    return place


def serve(app: Any, place: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve an application at ``place`` and call ``ready`` with the address. SIGTERM or Ctrl-C stops it cleanly."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=FINISH_SECONDS, timeout_keep_alive=KEEP_SECONDS
    )
    host, port = place.getsockname()[:2]
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    for stop in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises the signal again when it has finished
        signal.signal(stop, lambda number, frame: None)
    uvicorn.Server(config).run(sockets=[place])
