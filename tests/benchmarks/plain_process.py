"""The plain cell in a process of its own, a step at a time: `python -m benchmarks.plain_process JOB`.

What a step costs depends on the heap that it finds: after micro-batches have left large free blocks in it, the plain
batch need not ask the system for memory, which is a third of its time. In a notebook it has the heap that it made.
"""

import subprocess
import sys

from benchmarks.fresh import TESTS


class PlainProcess:
    """Takes turns like a contender; it has one step behind it when it is made."""

    def __init__(self, job):
        command = [sys.executable, "-m", "benchmarks.plain_process", job.name]
        self.process = subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first_s, _ = self.timed()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def timed(self):
        """Seconds of a step, told by the process itself: of the processor, and on the wall."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return [float(each) for each in self.process.stdout.readline().split()]


def serve(name):
    import torch

    from benchmarks import cells
    from benchmarks.contenders import PLAIN, Contender
    from benchmarks.jobs import JOBS

    torch.set_num_threads(1)
    job = next(job for job in JOBS if job.name == name)
    plain = Contender(PLAIN, cells.PLAIN, job.namespace())
    for _ in sys.stdin:
        print(*plain.timed(), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
