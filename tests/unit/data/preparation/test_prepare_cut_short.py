"""Killed, interrupted, out of space, two at once: the next run leaves what an undisturbed one does."""

import multiprocessing
import os
import signal
import sys

import pytest

from tests.moments import AtFile, FullDisk, Hold, Send
from tests.unit.data.preparation.raw_scans import (
    command,
    contents,
    items_of,
    phantom,
    records_of,
    status_of,
    write_csv,
    write_phantom,
)
from tests.warm import end_of, start


@pytest.fixture
def three(tmp_path):
    """The command that prepares three scans."""
    for seed, name in enumerate("abc"):
        write_phantom(tmp_path / "raw" / f"{name}.nii", phantom(seed))
    csv = write_csv(tmp_path / "joints.csv", a=phantom(0), b=phantom(1), c=phantom(2))
    # the stored volumes are larger than the pictures
    return command(tmp_path / "raw", tmp_path / "store", "--landmarks", csv, "--roi_size", "34")


@pytest.fixture
def undisturbed(three, tmp_path):
    """What a run in one go leaves."""
    assert status_of([word.replace("/store", "/whole") for word in three]) == 0
    return contents(tmp_path / "whole")


def started(arguments, tmp_path, moment=None, environment=None):
    """The command in a process of its own, to which something happens."""
    command = [sys.executable, "-m", "bertswin_ext", *arguments]
    return start(command, tmp_path / "log", moment=moment, environment=environment)


def leftovers(store):
    return [path for path in store.rglob("*") if path.name.endswith(".tmp")]


def test_the_disk_is_full(three, undisturbed, tmp_path):
    log, store = tmp_path / "log", tmp_path / "store"
    status = end_of(started(three, tmp_path, FullDisk(60_000)))
    assert status == 2
    said = log.read_text().splitlines()[-1]
    assert said.startswith("error: [Errno 27] no space left in ")
    assert said.endswith(
        "store while preparing a.nii; nothing half-written is left. Free some and run the same command again: it goes "
        "on where it stopped"
    )
    assert leftovers(store) == []
    assert list((store / "images").iterdir()) == []
    assert records_of(store) == {}
    assert items_of(store) == []
    assert status_of(three) == 0
    assert contents(store) == undisturbed


@pytest.mark.parametrize("pattern", ["images/*.nii", "images/.*.tmp", "scans/*.json", "datalist.json"])
def test_killed(three, undisturbed, tmp_path, pattern):
    store = tmp_path / "store"
    assert end_of(started(three, tmp_path, AtFile(store, pattern, Send(signal.SIGKILL)))) == -signal.SIGKILL
    assert list(store.glob(pattern))
    assert len(list(store.glob("scans/*.json"))) < 3
    assert status_of(three) == 0
    assert leftovers(store) == []
    assert contents(store) == undisturbed


def test_killed_in_the_middle_of_a_file(three, undisturbed, tmp_path):
    store = tmp_path / "store"
    assert end_of(started(three, tmp_path, FullDisk(60_000, kill=True))) == -signal.SIGXFSZ
    assert [path.stat().st_size for path in leftovers(store)] == [60_000]
    assert status_of(three) == 0
    assert leftovers(store) == []
    assert contents(store) == undisturbed


def test_interrupted(three, undisturbed, tmp_path):
    moment = AtFile(tmp_path / "store", "scans/*.json", Send(signal.SIGINT))
    assert end_of(started(three, tmp_path, moment)) == 130
    assert "interrupted; run the same command again" in (tmp_path / "log").read_text()
    assert status_of(three) == 0
    assert contents(tmp_path / "store") == undisturbed


# --- several processes ---

DEADLY = """
import importlib, os, signal, sys, time
if "--multiprocessing-fork" in sys.orig_argv:
    module = importlib.import_module("bertswin_ext.data.preparation.prepare")
    original = module.prepare_scan
    def prepare_scan(scan, settings, directory):
        if scan.scan != "b.nii":
            return original(scan, settings, directory)
        while not list((directory / "scans").glob("a-*.json")):
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    module.prepare_scan = prepare_scan
"""


def test_a_scan_that_kills_its_process(three, tmp_path):
    """It is named, the other one is prepared, and several processes write the same bytes as one."""
    (tmp_path / "raw" / "c.nii").unlink()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    store = tmp_path / "store"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    assert end_of(started([*three, "--workers", "2"], tmp_path, environment=environment)) == 1
    record = records_of(store)["b.nii"]
    assert record["verdict"] == "refused"
    assert "b.nii: its process was killed twice, the second time when it was alone" in record["reasons"][0]
    assert [item["source"] for item in items_of(store)] == ["a.nii"]
    assert leftovers(store) == []
    several = contents(store)
    assert status_of([word.replace("/store", "/whole") for word in three]) == 0
    whole = contents(tmp_path / "whole")
    of_a = [name for name in whole if "/a-" in name]
    assert len(of_a) == 3
    assert [several[name] for name in of_a] == [whole[name] for name in of_a]
    assert status_of(three) == 0
    assert contents(store) == whole


def test_two_at_once(three, tmp_path, capsys):
    here, there = multiprocessing.Pipe()
    first = started(three, tmp_path, AtFile(tmp_path / "store", "datalist.json", Hold(there)))
    there.close()  # if the first ends before that moment, this ends too
    assert here.recv() == "here"
    assert status_of(three) == 2
    assert f"error: another `prepare` is writing to {tmp_path}/store. Wait for it" in capsys.readouterr().err
    here.send("go on")
    assert end_of(first) == 0
    whole = contents(tmp_path / "store")
    assert status_of(three) == 0
    assert contents(tmp_path / "store") == whole
