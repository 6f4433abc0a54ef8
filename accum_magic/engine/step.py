"""The loop over the micro-batches of one step: what the rewritten cell calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any, Literal

import torch

from accum_magic.engine.backward import Backward
from accum_magic.engine.gradients import HOOKED, PARTED, SetAside
from accum_magic.engine.loop import MicroBatches
from accum_magic.engine.noise import StepNoise
from accum_magic.engine.planning import Planning
from accum_magic.engine.rescue import once_more
from accum_magic.engine.run import Run, current_run
from accum_magic.engine.site import Outcome, Site
from accum_magic.engine.weights import parameters_of

_UNDO: list[Callable[[], None]] = []
_AROUND = "around"  # in a function of this name `accum_magic.bind` compiles those of other cells


def step(  # noqa: PLR0913 - each is what the rewritten cell has to say
    micro_step: Callable[..., Outcome],
    batch: Mapping[str, Any],
    *,
    n: int | Literal["auto"] | None = None,
    size: int | None = None,
    window: bool = False,
    dims: Mapping[str, int | None] | None = None,
    loose: tuple[str, ...] = (),
    fixed: tuple[str, ...] = (),
    read: tuple[str, ...] = (),
    unread: tuple[str, ...] = (),
    when: bool = True,
    backward: Callable[..., object] | None = None,
    backward_options: Sequence[Mapping[str, object]] = (),
    undoable: bool = False,
    replay: str = "auto",
    grad_dtype: str | None = None,
    noise: bool = False,
    memory: str | None = None,
) -> tuple[Any, ...]:
    """Run forward and backward of one training step in micro-batches; the rewritten cell calls this.

    Args:
        micro_step: Forward pass of one micro-batch; returns the losses to back-propagate, and values.
        batch: Arguments of `micro_step` by name; tensors are split along dimension 0, or `dims[name]`.
        n: Number of micro-batches, at most one per sample; "auto": as many as the memory needs.
        size: Samples per micro-batch at most, in place of `n`.
        window: The batch is a window of loader batches; they are its micro-batches.
        dims: Batch dimension of a name where it is not 0; None where it is the one with as many values as samples.
        loose: Names that are split only if they have as many rows as the batch.
        fixed: Names that are handed over whole.
        read: Names of the values that are read later: losses are recombined, outputs joined.
        unread: Names of the values that nobody in the cell reads: single numbers are kept.
        when: Whether the plain cell would call `backward` at all.
        backward: What to call in place of `loss.backward`, such as `accelerator.backward`.
        backward_options: Keyword arguments of each loss's `backward`.
        undoable: Keep the gradients from before the step for `undo_step`.
        replay: "auto", "always" or "never": run module calls in chunks under checkpointing, and the loss whole.
        grad_dtype: "float32" accumulates low-precision gradients in it.
        noise: Also estimate the gradient noise scale.
        memory: The budget, such as "6GiB" or "80%" of what this process may have.

    Returns:
        The values of the full batch, those of `read` first, without a graph.

    Raises:
        BatchError: The batch cannot be split as planned; no gradient has changed.
        BudgetError: More memory is in use already than `memory` allows; no gradient has changed.

    """
    __tracebackhide__ = True
    _UNDO.clear()
    if not when:
        return tuple(micro_step(*batch.values())[1])
    run = current_run()
    n, size = run.step_begins(n, size)
    site = _site_of(run, micro_step, loose, fixed, dims or {})
    site.replay = replay
    if run.check is not None and torch.is_grad_enabled():
        options = {
            "size": size, "window": window, "dims": dims, "loose": loose, "fixed": fixed, "read": read,
            "unread": unread, "backward": backward, "backward_options": backward_options, "undoable": undoable,
            "replay": replay, "grad_dtype": grad_dtype, "noise": noise, "memory": memory,
        }  # fmt: skip
        run.check.step(site, micro_step, batch, n, options)
    if not run.steps:
        run.memory.use_device(
            next((v.device for v in batch.values() if isinstance(v, torch.Tensor)), torch.device("cpu"))
        )
    run.memory.begin_step(memory, run.steps)
    cut = Planning(run, site, micro_step, batch, read).cut(n, size, window=window)
    sizes = cut.sizes
    batch, carried = _carry(batch, fixed, loose)
    spread = StepNoise(sizes, batch) if noise and len(sizes) > 1 else None
    gradients = SetAside(getattr(torch, grad_dtype) if grad_dtype else None, spread)
    how = Backward(backward, backward_options)
    loop = MicroBatches(
        run, site, micro_step, batch, sizes, gradients, spread.watched(how) if spread else how,
        guard_bytes=cut.guard_bytes, measured=cut.measured,
    )  # fmt: skip
    rescues = run.rescues
    values = _gradients_made(loop, carried, read, unread, keep=undoable)
    sizes = loop.sizes
    if run.rescues == rescues:
        site.learn(sizes, cut.measured)
    if site.facts is not None and sizes != site.estimated:
        site.estimated = sizes
        kept = [site.whole_bytes + site.kept_bytes(count) for count in (max(sizes), sum(sizes))]
        run.estimate(*kept)
    if cut.update_bytes and cut.update_bytes > run.free_bytes():
        run.meter.release(collects=False)  # what the activations have left is free, but on a CPU held by the allocator
    if gradients.has_parted:
        run.note(f"{site.where}: {PARTED}")
    if site.is_reached_anew(gradients.parameters):
        run.memory.reach(gradients.parameters)
    if noise or grad_dtype is not None:
        run.notes |= dict.fromkeys(_limits(site, gradients, sizes, carried, grad_dtype, noise=noise))
    run.step_done(sum(sizes), len(sizes), loop.loss)
    return values


def _gradients_made(
    loop: MicroBatches,
    carried: Sequence[tuple[torch.Tensor, torch.Tensor]],
    read: tuple[str, ...],
    unread: tuple[str, ...],
    *,
    keep: bool,
) -> tuple[Any, ...]:
    """Run the micro-batches until every gradient is whole; if anything fails all are as they were."""
    __tracebackhide__ = True
    gradients = loop.gradients
    try:
        values = loop.run(read, unread)
        observed = once_more(gradients.observed)
        _back_propagate(carried, gradients)
        once_more(loop.statistics.update)
        once_more(lambda: gradients.finish(keep=keep))
    except BaseException:
        gradients.restore()
        raise
    if keep:
        _UNDO.append(gradients.restore)
    if observed is not None:
        loop.run_of_cell.noise.add(observed)
        _UNDO.append(loop.run_of_cell.noise.forget)
    return values


def _back_propagate(carried: Sequence[tuple[torch.Tensor, torch.Tensor]], gradients: SetAside) -> None:
    """Run the graphs of what was computed once before the loop; together, since they may share a part."""
    reached = [(value, gradient) for value, leaf in carried if (gradient := gradients.made(leaf)) is not None]
    if reached:
        values, grads = zip(*reached, strict=True)
        gradients.take(parameters_of(values))
        torch.autograd.backward(values, grads)
        if gradients.folds:
            gradients.fold()


def _limits(  # noqa: PLR0913 - what the options are asked of
    site: Site,
    gradients: SetAside,
    sizes: Sequence[int],
    carried: Sequence[object],
    grad_dtype: str | None,
    *,
    noise: bool,
) -> Iterator[str]:
    """Yield what `--grad-dtype` and `--noise` have not done for a step."""
    is_replayed = site.calls is not None and len(sizes) > 1
    if grad_dtype is not None:
        option = f"{site.where}: --grad-dtype {grad_dtype}"
        if not gradients.has_narrow():
            yield f"{option} has nothing to do: no parameter is narrower than float32"
        elif is_replayed:
            yield f"{option} does nothing for a step that is replayed: one backward pass adds up its chunks"
        elif gradients.hooked:
            yield f"{option} {HOOKED}"
    if noise:
        option = f"{site.where}: --noise"
        if len(sizes) == 1:
            yield f"{option} learns nothing from a step of one micro-batch"
        elif is_replayed:
            yield f"{option} learns nothing from a step that is replayed: its chunks have no gradients of their own"
        elif carried:
            yield f"{option} leaves out what is computed once before the micro-batches"
        if gradients.hooked:
            yield f"{option} {HOOKED}"


def undo_step() -> None:
    """Put the gradients back as they were before the last step; a jump that skips `backward` calls this."""
    for undo in _UNDO:
        undo()
    _UNDO.clear()


def _site_of(
    run: Run,
    micro_step: Callable[..., Outcome],
    loose: tuple[str, ...],
    fixed: tuple[str, ...],
    dims: Mapping[str, int | None],
) -> Site:
    code = micro_step.__code__
    site = run.sites.get(code)
    if site is None:
        site = run.sites[code] = Site(_first_line(code), _function_of(code), loose, fixed, dims)
    return site


def _function_of(code: CodeType) -> str:
    """Return the function of another cell that a micro step stands in, as `accum_magic.bind` has compiled it."""
    outer, _, rest = code.co_qualname.partition(".<locals>.")
    return rest.rpartition(".<locals>.")[0] if outer == _AROUND else ""


def _first_line(code: CodeType) -> int:
    """Return the line of the first statement in a function, in the user's cell."""
    lines = [line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno]
    return min(lines, default=code.co_firstlineno)


def _carry(
    batch: Mapping[str, Any], fixed: tuple[str, ...], loose: tuple[str, ...]
) -> tuple[Mapping[str, Any], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Cut the graphs of values computed once: each enters the loop as a leaf, its graph runs once at the end."""
    carried = []
    for name in (*fixed, *loose):
        value = batch[name]
        if isinstance(value, torch.Tensor) and value.grad_fn is not None:
            leaf = value.detach().requires_grad_()
            batch = {**batch, name: leaf}
            carried.append((value, leaf))
    return batch, carried
