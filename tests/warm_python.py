"""Fresh processes without their imports' seconds: a server that has imported all forks one each time.

What runs is the module that `python -m` would run, in a process that has run nothing before. Lance alone is imported
anew each time, since it is not to be forked. The server ends when its standard input does.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

REHEARSAL, DECODER = "pairloom.search.rehearsal", "pairloom.storage.images.worker"


@contextlib.contextmanager
def warm_python(folder: Path, module: str) -> Iterator[tuple[str, ...]]:
    """The beginning of a command that takes what follows `python -P -m` and the module's name: one of the above."""
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        handle = listening.fileno()
        server = subprocess.Popen(
            [sys.executable, __file__, str(handle), module], stdin=subprocess.PIPE, pass_fds=[handle]
        )
    try:
        # Isolated and without site-packages it starts in an instant.
        yield (sys.executable, "-I", "-S", __file__, address)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()


def serve(listening: socket.socket, module: str) -> None:
    """Fork a process for everyone who asks."""
    if module == REHEARSAL:
        import pandas  # noqa: F401  # what Lance imports
        import pyarrow.dataset  # noqa: F401  # the same

        import pairloom.models.encoder
        import pairloom.models.exported  # noqa: F401
    else:
        import scipy.fftpack  # type: ignore[import-untyped] # noqa: F401 # SciPy publishes no type information
    main = importlib.import_module(module).main

    threading.Thread(target=end_with_tests, daemon=True).start()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        asking, _ = listening.accept()
        if os.fork() == 0:
            answer(asking, main)
        asking.close()


def answer(asking: socket.socket, main: Callable[..., None]) -> None:
    """Be the process that was asked for."""
    status = 1
    try:
        arguments, streams, _, _ = socket.recv_fds(asking, 2**16, 3)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        asked = json.loads(arguments)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        main(*map(Path, asked["arguments"]))
        status = 0
    except BaseException:
        traceback.print_exc()
    asking.send(bytes([status]))
    os._exit(status)


def end_with_tests() -> None:
    os.read(0, 1)
    os._exit(0)


def ask(address: str, arguments: list[str]) -> int:
    """The exit status of a process forked with our streams, environment and folder."""
    asked = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
        return (server.recv(1) or b"\1")[0]


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
