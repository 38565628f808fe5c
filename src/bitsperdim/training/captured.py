"""A whole training step as one CUDA graph: the host launches it by one call instead of kernel by kernel.

A step of a small network launches some hundred kernels. Each launch costs the host a few microseconds, and the GPU less
than that. A graph records the kernels once and launches them together. The graph contains the drawing of the batch
(binarization included), the objective, its gradient, clipping, the optimizer, and the average of the weights.

A graph repeats exactly the recorded operations, with the same memory and the same numbers from the host. Therefore
everything that changes from step to step is in tensors on the device, which are filled before each step: the row
numbers of the batch, the learning rate, the weight of the KL term, and the step size of the weight average. Random
numbers still change: torch advances the generator at each launch by as much as a step without a graph does, so that
both draw the same numbers.

The first steps run without a graph, on a separate CUDA stream, because libraries initialize themselves then. The last
batch of an epoch runs without a graph if it is smaller. There is one graph for each number of samples of the objective
(fine-tuning may use another number).

Invariants (``tests/training/test_captured.py``): weights and curves equal those of steps without a graph, to rounding,
whatever changes from step to step (``test_a_captured_step_is_the_same``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bitsperdim.core.errors import InputError
from bitsperdim.runtime.distributed import Share, world_size
from bitsperdim.training.batches import Presentation
from bitsperdim.training.step import Optimization

DEVICES = ("cuda",)
N_FIRST = 3  # number of first steps without a graph


class Graph:
    """Work on a GPU that is recorded once and can be launched repeatedly.

    Args:
        work: function to record; it must not synchronize with the host.
        generator: source of its random numbers.

    Attributes:
        result: result of the work; each launch overwrites it, and before the first launch it is undefined.
    """

    def __init__(self, work: Callable[[], Tensor], generator: torch.Generator) -> None:
        """Record the work without executing it."""
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.result = work()

    def launch(self) -> None:
        """Execute the recorded work."""
        self.graph.replay()


def beside(work: Callable[[], Tensor]) -> Tensor:
    """Execute the work on a separate CUDA stream, as torch requires before the work is recorded; return its result."""
    stream, present = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(present)
    with torch.cuda.stream(stream):
        result = work()
    present.wait_stream(stream)
    return result


class CapturedSteps:
    """Training steps as CUDA graphs, for batches of one size.

    Args:
        optimization: the model, its optimizer and the settings.
        presentation: the training images, on the same device.
        generator: source of the random numbers for binarization and for the model.
        name: name of the model, for messages.
    """

    def __init__(
        self, optimization: Optimization, presentation: Presentation, generator: torch.Generator, name: str
    ) -> None:
        """Check that capture is possible, and allocate the tensors that are filled before each step.

        Raises:
            InputError: there is no GPU, there are several processes, or the noise comes from the CPU.
        """
        device = presentation.images.device
        here = f"params.yaml: train.capture = true is not possible for {name}"
        if device.type not in DEVICES:
            raise InputError(f"{here} on the device {device.type}: it needs a CUDA GPU. Write false.")
        if world_size() > 1:
            raise InputError(f"{here} in {world_size()} processes. Write false, or train in one process.")
        if presentation.noise_seed is not None:
            raise InputError(f"{here}: its dequantization noise is fixed and comes from the CPU. Write false.")
        self.optimization, self.presentation, self.generator, self.name = optimization, presentation, generator, name
        self.batch_size = min(optimization.settings.batch_size, len(presentation.images))
        self.index = torch.zeros(self.batch_size, dtype=torch.int64, device=device)
        self.kl_weight = torch.ones((), device=device) if optimization.settings.kl_warmup_steps else None
        self.average_step = torch.ones((), device=device)
        self.n_taken: dict[int, int] = {}  # number of samples -> number of steps
        self.graphs: dict[int, Graph] = {}

    def take_step(self, number: int, index: Tensor, n_samples: int) -> Tensor:
        """Take one training step.

        Args:
            number: number of the step, from 0.
            index: row numbers of the images, (B,).
            n_samples: K of the objective.

        Returns:
            the mean loss of these images, nats, detached.

        Raises:
            InputError: this step cannot be recorded.
        """
        self.optimization.set_learning_rate(number)
        self.average_step.fill_(self.optimization.average_step(number))
        if self.kl_weight is not None:
            self.kl_weight.fill_(self.optimization.kl_weight(number))
        if len(index) != self.batch_size:
            return self.work(index, n_samples)
        self.index.copy_(index)
        n_taken = self.n_taken.get(n_samples, 0)
        self.n_taken[n_samples] = n_taken + 1
        if n_taken < N_FIRST:
            return beside(lambda: self.work(self.index, n_samples))
        if n_samples not in self.graphs:
            self.graphs[n_samples] = self.recorded(n_samples)
        graph = self.graphs[n_samples]
        graph.launch()
        return graph.result.clone()

    def work(self, index: Tensor, n_samples: int) -> Tensor:
        """Execute the part of a step that a graph records; arguments and result are as in :meth:`take_step`."""
        x, labels, noise = self.presentation.batch(index, self.generator)
        whole = Share(slice(0, len(index)), len(index), len(index))
        return self.optimization.move(x, labels, noise, n_samples, whole, self.kl_weight, self.average_step)

    def recorded(self, n_samples: int) -> Graph:
        """Return the graph of a step with this number of samples.

        Raises:
            InputError: the step cannot be recorded; the message gives the reason.
        """
        try:
            return Graph(lambda: self.work(self.index, n_samples), self.generator)
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"params.yaml: train.capture = true is not possible for {self.name} ({reason}). Write false."
            ) from error
