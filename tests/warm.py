"""Start stages without importing torch anew for each: a process that has it, and forks.

``python`` below is a command that takes the place of Python: a script of a folder ``stages`` runs in a child of that
process, which gets the caller's folder, environment and standard streams, imports the code of bitsperdim itself, and
ends with its status; anything else runs in Python as ever. Only the import of other people's packages is shared. For
tests that send signals to a stage, or measure its memory, it is none.
"""

from __future__ import annotations

import array
import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = (
    *("torch", "torch._dynamo", "torch.distributed", "torchvision", "zuko", "numpy", "scipy.stats", "scipy.optimize"),
    *("sklearn.datasets", "pydantic", "ruamel.yaml", "safetensors.torch", "PIL.Image", "jinja2", "matplotlib.figure"),
)


@functools.cache
def folder() -> Path:
    """A folder with the command ``python``; the process behind it is started, and ends with this one."""
    place = Path(tempfile.mkdtemp(prefix="warm-"))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place / "socket"))
    listening.listen(8)
    arguments = [sys.executable, __file__, "serve", str(listening.fileno())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE, pass_fds=[listening.fileno()])
    listening.close()
    command = place / "python"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{place}/socket" "$@"\n')
    command.chmod(0o755)

    def end() -> None:
        server.kill()
        server.wait()
        shutil.rmtree(place)

    atexit.register(end)
    return place


def python() -> str:
    """The command."""
    return str(folder() / "python")


def path() -> str:
    """``PATH``, with the command first: that of ``stages/start.sh``."""
    return os.pathsep.join([str(folder()), os.environ["PATH"]])


def ask(address: str, arguments: list[str]) -> None:
    """Have a script run, and end as it ends."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        texts = [str(Path.cwd()), *(f"{name}={value}" for name, value in os.environ.items())]
        content = "\0\0".join(["\0".join(arguments), "\0".join(texts)]).encode("utf-8", "surrogateescape")
        fds = array.array("i", [0, 1, 2])
        server.sendmsg([len(content).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        server.sendall(content)
        status = server.recv(4)
    if len(status) < 4:
        sys.exit("the process that forks has ended")
    number = int.from_bytes(status, "big", signed=True)
    if number < 0:
        os.kill(os.getpid(), -number)
    sys.exit(number)


def serve(number: int) -> None:
    """Answer one caller after the other, each by a child that waits for the child which runs the script."""
    for name in PACKAGES:
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(fileno=number)
    while True:
        caller, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(caller)
            os._exit(0)
        caller.close()


def answer(caller: socket.socket) -> None:
    """Run what one caller asks for; tell how it ended."""
    size, ancillary, _, _ = caller.recvmsg(8, socket.CMSG_SPACE(12))
    fds = array.array("i", ancillary[0][2])
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += caller.recv(1 << 20)
    arguments, texts = (part.split("\0") for part in content.decode("utf-8", "surrogateescape").split("\0\0"))
    process = os.fork()
    if process == 0:
        caller.close()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.close(fd)
        run(arguments, texts[0], dict(text.split("=", 1) for text in texts[1:]))
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    caller.sendall(status.to_bytes(4, "big", signed=True))


def run(arguments: list[str], place: str, environment: dict[str, str]) -> None:
    """Be the process that runs a script."""
    import runpy
    import traceback

    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    found = [str(Path(entry).resolve()) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [str(Path(arguments[0]).resolve().parent), *found, *START]
    status = 1
    try:
        runpy.run_path(arguments[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            sys.stderr.write(f"{error.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        own = {str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
        START = [entry for entry in sys.path if entry not in own]
        serve(int(sys.argv[2]))
    elif len(sys.argv) > 2 and sys.argv[2].endswith(".py") and Path(sys.argv[2]).parent.name == "stages":
        ask(sys.argv[1], sys.argv[2:])
    else:
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
