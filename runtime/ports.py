"""Ports that a program serves on."""

from __future__ import annotations

import socket

from runtime.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """An open port, to be asked for before models are loaded: a taken one is told at once.

    Args:
      port: 0 for any that is free.

    Raises:
      UserError: it is taken, or the host is not this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)  # bound alone, another server could bind it too
    except OSError as error:
        listening.close()
        message = f"{host}:{port} cannot be opened ({error.strerror}); give another --host or --port"
        raise UserError(message) from None
    return listening
