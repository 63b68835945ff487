"""How to join a Ray cluster, or to begin one here. Ray is an extra, and loaded when asked for."""

import socket
from typing import Any

LOCAL = "local"
CONNECT_SECONDS = 10


def connect(address: str) -> tuple[Any, bool]:
    """Return Ray, connected, and whether this call has connected it.

    `local` begins a cluster on this machine; otherwise as `ray.init` has it: `auto`, `host:port`,
    `ray://host:port`. Raises ValueError, in a line, without Ray and where there is no cluster.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ValueError("--ray needs Ray: pip install 'salon[ray]'") from error
    if ray.is_initialized():
        return ray, False
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"--ray {address}: there is no cluster: {error}") from error
    return ray, True


def _check_answers(address: str) -> None:
    """Raise OSError where nothing answers at `host:port`: Ray itself would try for ten minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
