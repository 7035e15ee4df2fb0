"""A machine for pages and hints."""

import torch

from bertswin_ext.handlers.profiling.facts import MachineFacts

MACHINE = MachineFacts(
    name="A Processor",
    device_type="cpu",
    threads=8,
    cores=8,
    ranks=1,
    versions={"torch": "2.13", "python": "3.11"},
    network="BertsWinMAE",
    num_parameters=612_000,
    dtype=torch.float32,
    mixes=True,
    num_workers=2,
    cached_share=0.5,
    product_speeds={torch.float32: 90e9, torch.bfloat16: 95e9},
)
