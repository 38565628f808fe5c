"""Start stages without importing torch anew for each: a process that has it, and forks.

It reads one JSON line for each start, ``[script, arguments, file for the output]``, answers with the process id, and
with its status when it has ended. Only the start is shared: each stage is a process that can be killed as any other.
"""

import gc
import json
import os
import sys

import torch._dynamo  # noqa: F401 - of optimizers

from bitsperdim.evaluation import latent_code, scoring  # noqa: F401
from bitsperdim.training import trainer  # noqa: F401
from support.warm import end_as, start_program


def start(script: str, arguments: list[str], output: str) -> int:
    """Fork, and run a script as the main program in the child."""

    def program() -> None:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.argv = [script, *arguments]
        start_program([script], is_module=False)

    process = os.fork()
    if not process:
        end_as(program)
    return process


if __name__ == "__main__":
    gc.freeze()
    for line in sys.stdin:
        child = start(*json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
