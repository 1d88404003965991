"""First on PYTHONPATH, it watches a Python process and its children: whoever asks for the network
is refused, and written down.

An audit hook sees every module's use of Python's sockets and cannot be taken away again. Attempts
go to a file, because libraries that send such things tend to hide that they failed. Two things are
let through: files of this machine (AF_UNIX), by which processes speak, and to bind an address of
this machine, by which urllib3 learns at its import whether there is IPv6.
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
