"""Figures of processes that have done nothing else: `python -m benchmarks.in_fresh_process FIGURE ...`, as JSON."""

import json
import sys
from pathlib import Path
from time import process_time

SAMPLES, TOKENS, STEPS = 120, 1024, 2


def high_water_mark_mib():
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    message = "this system does not tell VmHWM"
    raise OSError(message)


def load_ext_ms():
    """Processor time of `%load_ext accum_magic` after torch and IPython are imported."""
    import torch  # noqa: F401
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    start = process_time()
    shell.run_line_magic("load_ext", "accum_magic")
    return 1e3 * (process_time() - start)


def peak_mib(cell, n):
    """Peak after two steps of a net of linear layers; of a model without a step for "none" and "imported"."""
    import IPython  # noqa: F401 - every notebook has it
    import torch

    from benchmarks import cells

    torch.set_num_threads(1)
    namespace = {"F": torch.nn.functional, "N": n, "torch": torch}
    namespace["model"] = model = token_mlp(torch.nn)
    namespace["optimizer"] = torch.optim.SGD(model.parameters(), lr=1e-3)
    namespace["loader"] = [(torch.randint(100, (SAMPLES, TOKENS)), torch.randint(10, (SAMPLES,)))] * STEPS
    if cell == "ours":
        from accum_magic.testing import run_accumulated

        run_accumulated(cells.PLAIN, namespace, n)
    elif cell == "imported":
        import accum_magic.testing  # noqa: F401
    elif cell != "none":
        exec({"plain": cells.PLAIN, "hand-written": cells.HAND_WRITTEN}[cell], namespace)
    return high_water_mark_mib()


def token_mlp(nn):
    """Nearly all of its memory is activations, 30 MiB a layer twice over, and it takes little time."""
    body = [m for _ in range(6) for m in (nn.Linear(64, 64), nn.GELU())]
    return nn.Sequential(nn.Embedding(100, 64), *body, nn.Flatten(), nn.Linear(64 * TOKENS, 10))


if __name__ == "__main__":
    figure, *arguments = sys.argv[1:]
    print(json.dumps(load_ext_ms() if figure == "load_ext" else peak_mib(arguments[0], int(arguments[1]))))
