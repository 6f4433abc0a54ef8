"""A module that is called once more, for a later loss: it has to be the same still, and its buffers move once."""

from __future__ import annotations

import torch

from accum_magic.errors import BatchError


class Again:
    """Stands beside a module whose output crosses an update; the rewritten cell calls `begin` and `end`.

    The graph of a GAN's fake images is freed with the discriminator's step, so the generator makes them anew for its
    own. That is exact only while no update has changed it, and running statistics must not move a second time.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._versions = [p._version for p in module.parameters()]
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begin(self, name: str, line: int) -> None:
        """Keep the buffers, before `name` is computed again for the loss of a line.

        Raises:
            BatchError: An update has changed the module's parameters in between.

        """
        if self._versions != [p._version for p in self._module.parameters()]:
            message = (
                f"line {line}: `{name}` carries a graph from before an update of the module that made it, so it cannot "
                f"be computed again for this loss. Compute `{name}` again after that update, right before line {line}."
            )
            raise BatchError(message)
        self._buffers = [(b, b.clone()) for b in self._module.buffers()]

    def end(self) -> None:
        """Put the buffers back as they were before the second call."""
        for buffer, kept in self._buffers:
            buffer.data.copy_(kept)
