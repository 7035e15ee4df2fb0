"""Tells the configurations where this bundle lies, whatever the working directory."""

from pathlib import Path

ROOT = str(Path(__file__).resolve().parent)
