"""A repository that is released in a second: two real bundles with small weights, a made-up third, a small package."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import torch

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord, save_network
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.programs.export import export_program

REPOSITORY = Path(__file__).parents[3]
SIZES = {
    "img_size": 16,
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 1,
    "num_heads": 2,
    "window_size": 2,
    "stem_channels": 4,
}
LABELS = ["background", "mandible", "skull"]
VERSION = "0.3.1"
TIME = 1_700_000_001
_PACKAGE = {
    "setup.cfg": "[metadata]\nname = toy-ext\nversion = 0.3.1\n\n[options]\npackages = toy_ext\n",
    "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n',
    "README.md": "toy\n",
    "toy_ext/__init__.py": '"""Toy."""\n',
    ".gitignore": "dist/\n",
}


def segmenter():
    torch.manual_seed(0)
    return BertsWinSegmenter(**SIZES, decoder_channels=4)


def autoencoder():
    torch.manual_seed(0)
    return BertsWinMAE(**SIZES, decoder_hidden_size=16)


def write_repository(folder):
    """Write and commit it."""
    for name, text in _PACKAGE.items():
        write(folder / name, text)
    for stage, network in (("pretrain", autoencoder()), ("tmj_segmentation", segmenter())):
        bundle = folder / "bundles" / stage
        copy_bundle(stage, bundle)
        names = LABELS if stage == "tmj_segmentation" else None
        save_network(network, bundle / "models" / "demo.pt", AdaptationRecord.of(network, 0.8, names))
    write_inference(folder / "bundles" / "inference")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder)
    return folder


def copy_bundle(stage, target):
    """What is committed of a real bundle, but for weights."""
    ignored = shutil.ignore_patterns("data", "output", "eval", "models", "__pycache__", "*.png")
    shutil.copytree(REPOSITORY / "bundles" / stage, target, ignore=ignored)
    path = target / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": VERSION}))


def write_inference(bundle):
    """A bundle whose weights are as they are published."""
    write(bundle / "LICENSE", "Apache-2.0\n")
    write(bundle / "docs" / "README.md", "# Toy\n")
    write(bundle / "here_inference.py", "import os\n\nROOT = os.path.dirname(__file__)\n")
    write(bundle / "configs" / "metadata.json", json.dumps({"version": VERSION, "monai_version": "1.6.1"}))
    write_weights(bundle / "models")


def write_weights(folder):
    """A program, and a masked autoencoder in a folder of its own."""
    (folder / "pretrained").mkdir(parents=True)
    network = segmenter()
    export_program(network, AdaptationRecord.of(network, 0.8, LABELS), folder / "model.ts")
    network = autoencoder()
    save_network(network, folder / "pretrained" / "model.pt", AdaptationRecord.of(network, 0.8))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def commit(folder, time=TIME):
    """Commit everything, at a given time."""
    git(folder, "add", "--all")
    git(
        folder,
        "commit",
        "--quiet",
        "--message",
        "x",
        GIT_AUTHOR_DATE=f"{time} +0000",
        GIT_COMMITTER_DATE=f"{time} +0000",
    )


def git(folder, *arguments, **variables):
    """Run git as someone, whoever runs the tests."""
    settings = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    who = {f"GIT_{role}_{key}": "toy@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    environment = {**os.environ, **settings, **who, **variables}
    done = subprocess.run(["git", "-C", str(folder), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
