"""Start stages without importing torch anew for each: a process that has it, and forks.

It reads one JSON line for each start, ``[script, arguments, file for the output]``, answers with the process id, and
with its status when it has ended. Only the start is shared: each stage is a process that can be killed as any other.
"""

import gc
import json
import os
import runpy
import sys
import traceback

import torch._dynamo  # noqa: F401 - of optimizers

from bitsperdim.evaluation import latent_code, scoring  # noqa: F401
from bitsperdim.training import trainer  # noqa: F401


def start(script: str, arguments: list[str], output: str) -> int:
    """Fork, and run a script as the main program in the child."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as error:
        sys.stderr.write(f"{error.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    gc.freeze()
    for line in sys.stdin:
        child = start(*json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
