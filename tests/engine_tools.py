"""The truth beside the probe: do micro-batch gradients under the claimed weights give the full batch's?"""

import weakref
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from accum_magic.engine.probe import probe

SPLITS = ((5, 4, 2), (1, 10), (3, 3, 3, 2))
TOTAL = 11


@dataclass
class Step:
    """A step on a slice of the batch: ``run(start, stop)`` returns roots and values."""

    run: object
    parameters: list

    def probe(self, k=3):
        return probe(lambda n: self.run(0, n), k)

    def full(self):
        self._clear()
        (root,), _ = self.run(0, TOTAL)
        root.backward()
        return self._gradients()

    def agrees(self, scalar):
        """Whether the claim of a scalar reproduces the full gradient on all ragged splits."""
        full = self.full()
        return all(
            torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)
            for split in SPLITS
            for mine, theirs in zip(self._accumulated(scalar, split), full, strict=True)
        )

    def _clear(self):
        for parameter in self.parameters:
            parameter.grad = None

    def _gradients(self):
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters]

    def _accumulated(self, scalar, split):
        stops = [sum(split[: i + 1]) for i in range(len(split))]
        slices = list(zip([0, *stops[:-1]], stops, strict=True))
        weights = [self._weights(part, slices) for part in scalar.summands]
        self._clear()
        for index, (start, stop) in enumerate(slices):
            (root,), _ = self.run(start, stop)
            by_node = {
                node_at(root, part.path): weight[index] for part, weight in zip(scalar.summands, weights, strict=True)
            }
            hooks = [node.register_prehook(partial(scaled, weight)) for node, weight in by_node.items()]
            root.backward()
            for hook in hooks:
                hook.remove()
        return self._gradients()

    def _weights(self, part, slices):
        shares = [(stop - start) / TOTAL for start, stop in slices]
        if part.reduction == "sum":
            return [1.0] * len(slices)
        if part.reduction == "mean":
            return shares
        totals = [self._total_weight(part.total_path, *bounds) for bounds in slices]
        return [t / sum(totals) * share**part.power for t, share in zip(totals, shares, strict=True)]

    def _total_weight(self, path, start, stop):
        (root,), _ = self.run(start, stop)
        node = node_at(root, path)
        return float(node._saved_total_weight if hasattr(node, "_saved_total_weight") else node._saved_other)


def node_at(root, path):
    node = root.grad_fn
    for index in path:
        node = node.next_functions[index][0]
    return node


def scaled(weight, gradients):
    return tuple(None if g is None else g * weight for g in gradients)


def step_of(model, inputs, loss):
    """A step ``loss(model(inputs[a:b]), a, b)``; the model is a module or a function."""
    parameters = list(model.parameters()) if isinstance(model, torch.nn.Module) else []

    def run(start, stop):
        out = model(inputs[start:stop])
        value = loss(out, slice(start, stop))
        return (value,), (out, value)

    return Step(run, parameters)


class LiveBytes(TorchDispatchMode):
    """The bytes of all tensors that operations in the block have made, while they live; `peak_bytes` is the most."""

    def __init__(self):
        super().__init__()
        self.now_bytes = self.peak_bytes = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage):
        if storage not in self._known:
            self._known.add(storage)
            self.now_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.now_bytes)
            weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, nbytes):
        self.now_bytes -= nbytes
