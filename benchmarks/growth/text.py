"""The words of the page that `scaling.py` writes."""

INTRODUCTION = """
# What a run costs

How time and memory of pre-training grow, and how long a run takes before it is started. `python -m bertswin_ext
estimate` does the sums for any configuration, see [the end of this page](#how-to-use-it).

Measured on one core, float32, torch {torch}, by `python benchmarks/scaling.py`, which also wrote this page. A product
of large matrices reaches {ceiling:.0f} GFLOP/s there, *the ceiling*. Medians; brackets hold the smallest and the
largest of the rounds. Every number is of a process of its own: seconds are the processor's, memory is what was resident
at the worst moment, less what Python and torch take. All numbers are in [scaling.csv](scaling.csv).
"""

FORMULAE = """
## Formulae

With *n* tokens of width *h*, of which windows of *w* tokens hold *n'* with their padding, *L* blocks, a share *v* of
visible tokens, *K* losses, *P* parameters, and two FLOPs for a multiplication and an addition:

```text
forward  = L (8 n' h^2 + 4 n' w h + 16 n h^2) + v n stem + n decoder      projections, attention, MLP; the rest
step     = samples x (forward + B (2 forward - first convolution))        B = K, classic; 1, stochastic
memory   = 4 P (1 + K + K' + momenta) + batch x activations               K' = K for K > 1: the step before
seconds  = steps x (step / (peak x MFU) + 2 (G - 1) / G x 4 P K / link)   G cards; the link's bytes a second
```

*activations* of a block are, for a token, 16 *h* numbers and one for every head and token of its window; those of
stem, decoder and loss are added from the sizes of their layers. FLOPs are within 2 % of what torch counts, and
activations in float32 within 6 % of what it keeps: tests compare them. Under autocast most activations have half the
bytes. Attention is linear in *n* because *w* is fixed; *P*, and so conductor and optimizer, do not grow with the volume
at all.
"""

ASSUMED = """
## Measured and assumed

- **Measured**: everything that is above the formulae, on one machine. Exponents and ratios carry over to others,
  seconds do not.
- **By formula, checked**: FLOPs, and memory in float32 (column *by formula*, relative to the measured peak).
- **Assumed**: the share of the peak that a GPU reaches (MFU), the speed between cards, and that a fused attention of a
  GPU keeps no more than the one that is counted. Measure a step on your card and pass `--mfu`.
- **Not counted**: validation, start-up, waiting for data, the 0.5 to 1 GB that CUDA and its libraries take.
"""

USE = """
## How to use it

```bash
python -m bertswin_ext estimate --config_file bundles/pretrain/configs/train.json --card A100 --cards 4 --scans 2000
python -m bertswin_ext estimate --config_file bundles/pretrain/configs/train.json --card "RTX 4090" \\
    --img_size 96 --window_size 6 --epochs 100
```

It prints FLOPs, memory of a card and whether it fits, hours, and how they come about. Entries of the configuration are
replaced as in a run. `--card` is one of the table, or give `--tflops` and `--memory_gb`. With several cards every card
has its own `batch_size`: a step then sees as many times more samples, in the same time.
"""
