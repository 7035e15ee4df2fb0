"""Phantoms: joints and jaws that are computed, with labels and as a scanner sees them."""
