"""The whole step of a training as one CUDA graph: the host launches it at once, and not kernel by kernel.

A step of a small network launches some hundred kernels, each of which costs the host a few microseconds and the GPU
less than that. A graph records them once and launches them together. What is recorded: how the batch is drawn from its
images (binarization too), the objective, its gradient, clipping, the optimizer, and the average of the weights.

A graph repeats what the host did when it was recorded, with the same memory and the same numbers of the host. So all
that changes from step to step is in tensors on the device, which are filled before each step: the rows of the batch,
the learning rate, the weight of the KL term, and how far the average moves. Random numbers are drawn anew: torch moves
the generator forward with each launch, by as much as the step without a graph does, so that both draw the same.

The first steps run without a graph, on a stream of their own: libraries prepare themselves then. So does the last batch
of an epoch where it is smaller. Each number of samples of the objective (fine-tuning has another) has a graph.

Invariants (``tests/training/test_captured.py``): weights and curves are those of the step without a graph, to rounding,
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
N_FIRST = 3  # steps without a graph


class Graph:
    """Work on a GPU that is recorded and can be launched again.

    Args:
        work: what is done, without a word to the host.
        generator: of its random numbers.

    Attributes:
        result: of the work, which each launch overwrites; there is nothing in it before the first.
    """

    def __init__(self, work: Callable[[], Tensor], generator: torch.Generator) -> None:
        """Record the work, without doing it."""
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.result = work()

    def launch(self) -> None:
        """Do the work."""
        self.graph.replay()


def beside(work: Callable[[], Tensor]) -> Tensor:
    """Do the work on a stream of its own, as has to be done before the same work is recorded; return its result."""
    stream, present = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(present)
    with torch.cuda.stream(stream):
        result = work()
    present.wait_stream(stream)
    return result


class CapturedSteps:
    """Steps of an optimization on batches of one size.

    Args:
        optimization: whose weights move.
        presentation: of the images, on the same device.
        generator: of how they are drawn, and of the model's randomness.
        name: of the model, for messages.
    """

    def __init__(
        self, optimization: Optimization, presentation: Presentation, generator: torch.Generator, name: str
    ) -> None:
        """Take them, and make the tensors that are filled before each step.

        Raises:
            InputError: there is no GPU, there are several processes, or the noise comes from the host.
        """
        device = presentation.images.device
        here = f"params.yaml: train.capture = true is not possible for {name}"
        if device.type not in DEVICES:
            raise InputError(f"{here} on the device {device.type}: it needs a CUDA GPU. Write false.")
        if world_size() > 1:
            raise InputError(f"{here} in {world_size()} processes. Write false, or train in one process.")
        if presentation.noise_seed is not None:
            raise InputError(f"{here}, which keeps its dequantization noise: that comes from the CPU. Write false.")
        self.optimization, self.presentation, self.generator, self.name = optimization, presentation, generator, name
        self.batch_size = min(optimization.settings.batch_size, len(presentation.images))
        self.index = torch.zeros(self.batch_size, dtype=torch.int64, device=device)
        self.kl_weight = torch.ones((), device=device) if optimization.settings.kl_warmup_steps else None
        self.average_step = torch.ones((), device=device)
        self.n_taken: dict[int, int] = {}  # steps, by the number of samples
        self.graphs: dict[int, Graph] = {}

    def take_step(self, number: int, index: Tensor, n_samples: int) -> Tensor:
        """Move the weights.

        Args:
            number: of the step, from 0.
            index: (B,) rows of the images.
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
        """Do what a graph does; arguments and result as of :meth:`take_step`."""
        x, labels, noise = self.presentation.batch(index, self.generator)
        whole = Share(slice(0, len(index)), len(index), len(index))
        return self.optimization.move(x, labels, noise, n_samples, whole, self.kl_weight, self.average_step)

    def recorded(self, n_samples: int) -> Graph:
        """Return the graph of a step with this number of samples.

        Raises:
            InputError: saying why there is none.
        """
        try:
            return Graph(lambda: self.work(self.index, n_samples), self.generator)
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"params.yaml: train.capture = true is not possible for {self.name} ({reason}). Write false."
            ) from error
