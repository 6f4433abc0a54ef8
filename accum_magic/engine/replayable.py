"""Whether a step is replayed, what is said of it, and when it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accum_magic.engine.calls import study_calls
from accum_magic.engine.per_batch import PerBatch
from accum_magic.engine.terms import Coupling
from accum_magic.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from accum_magic.engine.calls import StudiedCalls
    from accum_magic.engine.facts import StepFacts


WHOLE = "`{}` runs on the whole batch: {}"
UNTOLD_ROWS = "the data decide which rows it is given"


def is_to_replay(replay: str, facts: StepFacts, values: Iterable[object]) -> bool:
    """Tell whether a step is to be replayed, where it can be; `replay` is "auto", "always" or "never"."""
    # A chunk is computed twice: from other state it would be another one. And the batch is needed as a whole.
    if replay == "never" or facts.state_reasons or any(isinstance(value, PerBatch) for value in values):
        return False
    return replay == "always" or bool(facts.unproven)


def calls_to_replay(
    where: str, replay: str, forward: Callable[[int], object], k: int, sources: Mapping[str, object]
) -> StudiedCalls | None:
    """Find the module calls that run in chunks while the loss sees the whole batch; None where there are none.

    Raises:
        BatchError: There are none because a module compares its samples itself, or though they were asked for.

    """
    calls = study_calls(forward, k, sources)
    if calls.can_chunk:
        return calls
    coupled = next(((kind, why) for kind, why in calls.whole.items() if isinstance(why, Coupling)), None)
    if coupled is not None:
        message = (
            f"{where}: `{coupled[0]}` itself compares the samples of a batch ({coupled[1]}), and no module in it could "
            "run in chunks. Put its layers into modules of their own, or run the cell approximately with --replay "
            "never."
        )
        raise BatchError(message)
    if replay == "always":
        message = f"{where}: --replay always finds no module call that can run in chunks. Leave the option out."
        raise BatchError(message)
    return None


def replay_notes(where: str, facts: StepFacts, calls: StudiedCalls) -> Iterator[str]:
    """Yield what the user should know of a replayed step."""
    why = facts.unproven[0] if facts.unproven else "asked for"
    yield f"{where}: replayed ({why}): modules run in chunks, forward twice, and the loss sees the whole batch"
    for kind, reason in calls.whole.items():
        yield WHOLE.format(kind, reason)
