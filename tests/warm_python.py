"""Fresh processes without their imports' seconds: a server that has imported all forks one for each rehearsal.

What runs is the module that `python -m` would run, in a process that has run nothing before. Lance alone is imported
anew each time, since it is not to be forked. The server ends when its standard input does.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def warm_python(folder: Path) -> Iterator[tuple[str, ...]]:
    """The beginning of a command that takes what follows `python -P -m pairloom.search.rehearsal`."""
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        handle = listening.fileno()
        server = subprocess.Popen([sys.executable, __file__, str(handle)], stdin=subprocess.PIPE, pass_fds=[handle])
    try:
        # Isolated and without site-packages it starts in an instant.
        yield (sys.executable, "-I", "-S", __file__, address)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()


def serve(listening: socket.socket) -> None:
    """Fork a process for everyone who asks."""
    import pandas  # noqa: F401  # what Lance imports
    import pyarrow.dataset  # noqa: F401  # the same

    import pairloom.models.encoder
    import pairloom.models.exported
    import pairloom.search.rehearsal  # noqa: F401

    threading.Thread(target=end_with_tests, daemon=True).start()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        asking, _ = listening.accept()
        if os.fork() == 0:
            answer(asking)
        asking.close()


def answer(asking: socket.socket) -> None:
    """Be the process that was asked for."""
    status = 1
    try:
        arguments, streams, _, _ = socket.recv_fds(asking, 2**16, 3)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        from pairloom.search.rehearsal import main

        main(*map(Path, json.loads(arguments)))
        status = 0
    except BaseException:
        traceback.print_exc()
    asking.send(bytes([status]))
    os._exit(status)


def end_with_tests() -> None:
    os.read(0, 1)
    os._exit(0)


def ask(address: str, arguments: list[str]) -> int:
    """The exit status of a process forked with our streams."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [json.dumps(arguments).encode()], [0, 1, 2])
        return (server.recv(1) or b"\1")[0]


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
