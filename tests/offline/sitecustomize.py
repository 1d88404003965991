"""Refuses and records every use of the network by a Python process and its children.

The module is first on PYTHONPATH. An audit hook receives every use of Python's sockets and cannot
be removed. Attempts are written to a file, because libraries may hide that a request failed. Two
uses are allowed: sockets of this machine (AF_UNIX), by which processes communicate, and binding an
address of this machine, by which urllib3 tests for IPv6 at its import.
"""

import os
import sys
import traceback

LOOKS_UP = {
    "socket.getaddrinfo",
    "socket.getnameinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "urllib.Request",
}
SPEAKS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"}


def asks(event: str, args: tuple) -> bool:
    if event in SPEAKS and isinstance(args[1], tuple):
        return event != "socket.bind" or args[1][0] not in ("127.0.0.1", "::1")
    return event in LOOKS_UP


def refuse(event: str, args: tuple) -> None:
    if asks(event, args):
        with open(os.environ["NETWORK_ATTEMPTS"], "a") as file:
            file.write(f"{event} {args[1:]}\n{''.join(traceback.format_stack(limit=6))}\n")
        raise PermissionError(f"no network here: {event}")


sys.addaudithook(refuse)
