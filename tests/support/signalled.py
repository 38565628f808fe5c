"""Run a training stage in which one process gets signals after a step: ``signalled.py STEP RANK SIGNALS STAGE ...``."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

from torch import Tensor

from bitsperdim.runtime import distributed
from bitsperdim.training import trainer

step, rank, names, *arguments = sys.argv[1:]
take_step = trainer._Trainer.take_step


def signalled(self: Any, *batch: Any) -> Tensor:
    loss = take_step(self, *batch)
    if self.state.step == int(step) and distributed.rank() == int(rank):
        for name in names.split(","):
            os.kill(os.getpid(), signal.Signals[name])
    return loss


trainer._Trainer.take_step = signalled  # type: ignore[method-assign]
signal.signal(signal.SIGINT, signal.default_int_handler)  # heard, also where the tests were started in the background
sys.argv = arguments
runpy.run_path(arguments[0], run_name="__main__")
