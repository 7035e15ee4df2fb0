"""The words of the page that do not depend on what was found."""

INTRODUCTION = """\
# How fast reconstruction is learnt

Fidelity of the reconstruction over epochs, FLOPs and seconds: how much sooner an arm reaches what {baseline} reaches.
Written by `benchmarks/convergence.py`, texts and all, from the runs' tables; all points are in
[convergence.csv](convergence.csv).
"""

READING = """\
## How to read it

- A *horizon* is a training of so many epochs with its own warm-up and its own decay of the learning rate. What counts
  is the fidelity at its end, on held-out volumes with fixed masks, the same for all arms.
- *Epochs to reach* a fidelity: between two horizons, fidelity is linear in the logarithm of the epochs; a longer
  training counts as no worse than a shorter one. Beyond the shortest and the longest nothing is extrapolated: `<=`
  says that the shortest training is there already, *not reached in T* that the longest of T epochs is not.
- *Targets* are shares of the baseline's gain: from before training to the best of its horizons, mean over the seeds.
  With *seed by seed* every seed has to reach the best that the baseline has with that seed. Some of the baseline's own
  seeds fall short of their mean, so 100 % is often only a bound; *seed by seed* is a number if the arm gets there.
- *x fewer* divides the baseline's epochs, FLOPs or seconds by the arm's, seed by seed: geometric mean and 95 %
  interval (Student's t on the logarithms). `>=`, `<=` and `<` are bounds, where a seed of the baseline or of the arm
  did not get there, or was there at the shortest horizon already; bounds have no interval, and where both are there at
  their shortest, the quotient is *not known*. *of means* is the quotient of the curves averaged over the seeds, which
  has no interval either.
- FLOPs are those of a sample, forward pass and all backward passes. Seconds are a sample's on the processor, one
  thread, arms taking turns, median over the rounds; what the rounds leave open is in the interval of the ratio.
"""

PLATEAU = 0.05
"""Share of its gain that the baseline may still make in its last lengthening and be called level."""
