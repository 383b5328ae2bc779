"""Gradients of one batch from several single-threaded processes.

A batch's pieces are taken from a common counter, so a core that other programs use slows the run
down by its share only, where threads of one process would wait for the slowest at every product.
Weights live in shared memory; each process adds up
gradients of its own, which the first one sums.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

import torch
from model import Llama, ModelShape
from torch import Tensor
from torch import multiprocessing as mp

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setup:
    """What every process needs to compute a gradient in the same way."""

    shape: ModelShape
    device: str
    bf16: bool
    compiled: bool

    def autocast(self) -> AbstractContextManager[object]:
        """What the forward pass runs under."""
        if self.bf16:
            return torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16)
        return nullcontext()

    def loss_of(self, model: Llama) -> Loss:
        """The model's loss, compiled for each row length if asked for."""
        loss: Loss = torch.compile(model.loss, dynamic=False) if self.compiled else model.loss
        return loss


def accumulate(
    setup: Setup, loss_of: Loss, rows: Tensor, pieces: int, taken: Synchronized[int]
) -> float:
    """Take pieces of the batch until none is left; adds to the gradients, returns the loss."""
    chunks = rows.tensor_split(pieces)
    total = 0.0
    while True:
        with taken.get_lock():
            index = taken.value
            taken.value += 1
        if index >= pieces:
            return total
        chunk = chunks[index].to(setup.device)
        with setup.autocast():
            loss = loss_of(chunk[:, :-1], chunk[:, 1:]) / pieces
        loss.backward()
        total += loss.item()


def serve(
    setup: Setup,
    weights: dict[str, Tensor],
    gradients: dict[str, Tensor],
    taken: Synchronized[int],
    connection: Connection,
) -> None:
    """A helper process: answer every batch with its share of the loss until the pipe closes."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    model = Llama(setup.shape)
    for name, parameter in model.named_parameters():
        parameter.data = weights[name]
        parameter.grad = gradients[name]
    loss_of = setup.loss_of(model)
    while True:
        try:
            rows, pieces = connection.recv()
        except EOFError:
            return
        for gradient in gradients.values():
            gradient.zero_()
        connection.send(accumulate(setup, loss_of, torch.from_numpy(rows), pieces, taken))


class GradientWorkers:
    """This process and `count - 1` helpers, which leave a batch's gradient in `model`'s `.grad`.

    Moves the model's weights to shared memory when there are helpers.
    """

    def __init__(self, setup: Setup, model: Llama, count: int) -> None:
        self.setup = setup
        self.count = count
        self.model = model
        self.loss_of = setup.loss_of(model)
        context = mp.get_context("spawn")
        self.taken: Synchronized[int] = context.Value("i", 0)
        self.helpers: list[tuple[Connection, dict[str, Tensor]]] = []
        if count > 1:
            model.share_memory()
            torch.set_num_threads(1)
        weights = {name: p.data for name, p in model.named_parameters()}
        for _ in range(count - 1):
            gradients = {n: torch.zeros_like(w).share_memory_() for n, w in weights.items()}
            ours, theirs = context.Pipe()
            arguments = (setup, weights, gradients, self.taken, theirs)
            context.Process(target=serve, args=arguments, daemon=True).start()
            theirs.close()
            self.helpers.append((ours, gradients))

    def gradient(self, rows: Tensor, pieces: int) -> float:
        """Add the gradient of `rows` (`(rows, length + 1)` token ids) and return the mean loss.

        The batch is worked on in `pieces` equal parts, which must divide the rows evenly.
        """
        self.taken.value = 0
        for connection, _ in self.helpers:
            connection.send((rows.numpy(), pieces))
        total = accumulate(self.setup, self.loss_of, rows, pieces, self.taken)
        parameters = dict(self.model.named_parameters())
        for connection, gradients in self.helpers:
            total += float(connection.recv())
            for name, gradient in gradients.items():
                parameter = parameters[name]
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad += gradient
        return total
