"""Hosts that give data and weights: whether one can be reached is asked first, for trying takes a minute."""

import socket
import urllib.request
from functools import lru_cache

WAIT = 3.0  # seconds for a host to answer


@lru_cache
def answers(host: str) -> bool:
    """Does the host take connections? Behind a proxy that can't be asked, and it is taken to."""
    if urllib.request.getproxies().get("https"):
        return True
    try:
        with socket.create_connection((host, 443), timeout=WAIT):
            return True
    except OSError:
        return False
