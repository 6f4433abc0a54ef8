"""What accumulation costs, each figure beside its peer in one run: `pytest tests/benchmarks --benchmark-only`.

The tables printed at the end of the run are the result; pytest-benchmark's own table times whole rounds, and is
only of use to see how noisy the machine was. How to read them:

* The contenders are the texts of `cells.py`, run at module level as a notebook runs them. They take short turns, in
  an order shuffled each time, on one thread; some turns of everybody make a round. Loaders are lists of tensors made
  beforehand, cut to micro-batches for Accelerate and Fabric, so that nobody pays for a `DataLoader`. Before any clock
  runs, each computes the gradients of two steps in float64: all must be those of the plain cell.
* `µs` is the median over the rounds, per micro-batch; the plain cell's step is divided by N too. It is the processor
  time of the whole process, the view's thread included, so that other programs on the machine do not count; without
  them it is the time that passes. `- hand` and `/ hand` compare that median with the hand-written loop's; `±` is half
  the central 95 % of the same comparison over resampled rounds (bootstrap). `≈` marks what lies within that noise of
  the hand-written loop. `wall` is `/ hand` by the clock on the wall.
* "ours" is the steady state: the step has been probed before. "with text view" has the view's thread publishing five
  times a second. "50-step run" adds the one-off costs of a run, 1/50 of them per step; they are the medians printed
  below the table: rewriting, the probe, and the rest of `shell.run_cell` (IPython, compiling, the view's start and
  end). They are measured as the first step of a run less a later one, on a batch of N samples, since the probe costs
  the same for every batch.
* Peaks are `VmHWM` of fresh processes that run two steps, medians of several. Each has torch and IPython imported and
  the model built; "ours" imports accum_magic as well. `/ hand` is the raw ratio, `above` what lies above the same
  process without a step, `above / hand` the ratio of these, the import of accum_magic counted, and `without imports`
  the same above a process that has imported it. The allocator is told to give every tensor's memory back when it is
  freed: left alone, it varies the peak of the same program by a tenth, hand-written or not.
* `auto` is compared with the best of an exhaustive search over N (`search.py`): fixed numbers of micro-batches on a
  grid whose neighbours differ by a fifth, each timed for a step, the closest to the best again. The lowest of many
  noisy times is too low, so the winner is measured anew, in rounds with auto's; these are the figures. Auto's run
  goes on all the while, a step at a time; the rounds begin when its N has stayed the same for four steps, or after
  48. Its search is training: the gradients of its first steps are checked in float64, as everybody's are, and the
  samples that no update has seen (the probe's) are counted in the model and told in micro-batches of the last size.
  The plain full batch runs in a process of its own, in turns with auto, since it is faster on a heap that
  micro-batches have grown.
* "in 112 MiB": processes whose address space is limited (RLIMIT_AS) to that much more than they have with everything
  imported and one step done; the full batch does not fit. Samples "thrown away" have entered a forward pass and are
  not part of the training that counts: Accelerate starts the function again for each size, Lightning puts the model
  back after its trials. Both go on with batches of the size that they have found, so an update sees fewer samples
  than was asked for. As for the peaks, the allocator gives every tensor's memory back, or sizes would vary from
  process to process; that costs everybody time, and small micro-batches their advantage.
* Goals are those of the specification's section on figures. `met` and `missed` are told apart by more than the noise;
  `tie` means that the figure lies within the noise of its goal. Nothing fails: a figure is no test.
"""
