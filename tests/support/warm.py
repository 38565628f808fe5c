"""Start stages without importing torch for each: one process imports it and forks a child for every start.

The command ``python`` of this module takes the place of Python. A script in a folder ``stages`` or ``support``, or a
module in MODULES, runs in a child of that process. The child gets the folder, the environment, the standard streams and
the signals of the caller, imports the code of bitsperdim itself, and the command ends with the child's status. Anything
else runs in Python. Only the import of other packages is shared. Tests that measure the memory of a process start
Python itself.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

PACKAGES = (
    *("torch", "torch._dynamo", "torch.distributed", "torchvision", "zuko", "numpy", "scipy.stats", "scipy.optimize"),
    *("sklearn.datasets", "pydantic", "ruamel.yaml", "safetensors.torch", "PIL.Image", "jinja2", "matplotlib.figure"),
    *("pandas", "hydra", "pygit2", "dulwich.porcelain", "dvc.cli.parser", "dvc.daemon", "dvc.data_cloud"),
    *("dvc.utils.hydra", "dvc.repo.datasets", "dvc.repo.graph", "dvc.repo.index", "dvc.repo.plots", "dvc.repo.stage"),
    *("dvc.repo.reproduce", "dvc.repo.experiments.executor.local", "dvc.repo.experiments.queue.celery"),
    "dvc.repo.experiments.run",
)

MODULES = ("torch.distributed.run", "dvc", "bitsperdim.cli")
SHARED = "WARM_FOLDER"  # names the folder of a process that another one has started


@functools.cache
def folder() -> Path:
    """A folder with the command ``python``; the process behind it is started, and ends with this one.

    If SHARED names the folder of such a process, it is used instead.
    """
    if SHARED in os.environ:
        return Path(os.environ[SHARED])
    place = Path(tempfile.mkdtemp(prefix="warm-"))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place / "socket"))
    listening.listen(8)
    arguments = [sys.executable, __file__, "serve", str(listening.fileno()), str(place)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE, pass_fds=[listening.fileno()])
    listening.close()
    for name, module in (("python", ""), ("dvc", "-m dvc ")):
        command = place / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{place}/socket" {module}"$@"\n')
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


def is_shared(arguments: list[str]) -> bool:
    """Whether Python is asked for what runs in a child."""
    if arguments[:1] == ["-m"] and arguments[1] in MODULES:
        return True
    return bool(arguments) and arguments[0].endswith(".py") and Path(arguments[0]).parent.name in ("stages", "support")


def ask(address: str, arguments: list[str]) -> None:
    """Have a script run, and end as it ends."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        texts = [str(Path.cwd()), *(f"{name}={value}" for name, value in os.environ.items())]
        content = "\0\0".join(["\0".join(arguments), "\0".join(texts)]).encode("utf-8", "surrogateescape")
        fds = array.array("i", [0, 1, 2])
        server.sendmsg([len(content).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        server.sendall(content)
        process = received(server)
        for forwarded in (signal.SIGINT, signal.SIGTERM):
            signal.signal(forwarded, lambda number, _: os.kill(process, number))
        status = received(server)
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def received(server: socket.socket) -> int:
    """A number from the process that forks."""
    content = server.recv(4)
    if len(content) < 4:
        sys.exit("the process that forks has ended")
    return int.from_bytes(content, "big", signed=True)


def serve(number: int) -> None:
    """Answer one caller after the other, each by a child that waits for the child which runs the script."""
    for name in PACKAGES:
        __import__(name)
    gc.freeze()  # children need not look at what is here
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(fileno=number)
    while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:  # which ends with the tests
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
    for fd in fds:
        os.close(fd)
    caller.sendall(process.to_bytes(4, "big"))
    threading.Thread(target=end_with, args=(caller, process), daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(OSError):  # the caller may be gone
        caller.sendall(status.to_bytes(4, "big", signed=True))


def end_with(caller: socket.socket, process: int) -> None:
    """Kill a process when its caller is gone."""
    if not caller.recv(1):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def run(arguments: list[str], place: str, environment: dict[str, str]) -> None:
    """Be the process that runs a script."""
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    found = [str(Path(entry).resolve()) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    is_module = arguments[0] == "-m"
    sys.executable = os.environ["PYTHON_EXEC"] = COMMAND  # of what it starts; the latter is for torchrun
    first = Path.cwd() if is_module else Path(arguments[0]).resolve().parent
    sys.argv, sys.path[:] = arguments[is_module:], [str(first), *found, *START]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    end_as(lambda: start_program(arguments, is_module=is_module))


def start_program(arguments: list[str], *, is_module: bool) -> None:
    """Run a module, or a script, as the main program."""
    import runpy

    if is_module:
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(arguments[0], run_name="__main__")


def end_as(program: Callable[[], object]) -> NoReturn:
    """Run a program, and end this process as Python would end after it."""
    import traceback

    status = 1
    try:
        program()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            sys.stderr.write(f"{error.code}\n")
    except BaseException:  # whatever it is, it is this child's end and not the other processes'
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        own = {str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
        START = [entry for entry in sys.path if entry not in own]
        COMMAND = str(Path(sys.argv[3]) / "python")
        serve(int(sys.argv[2]))
    else:
        given = [argument for argument in sys.argv[2:] if argument != "-u"]
        if is_shared(given):
            ask(sys.argv[1], given)
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
