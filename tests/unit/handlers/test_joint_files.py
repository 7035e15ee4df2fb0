from types import SimpleNamespace

import pytest
from ignite.engine import Engine

from bertswin_ext.handlers.joint_files import JointFilesHandler


class Names(JointFilesHandler):
    """Notes the joints, and every table that is written."""

    def __init__(self):
        super().__init__("out", None)
        self.tables = []

    def write_joint(self, scan, name, cube, output):
        return [{"scan": scan.name, "joint": name, "output": output}]

    def write_table(self, rows):
        self.tables.append([f"{row['scan']} {row['joint']} {row['output']}" for row in rows])


def scan(name, *joints):
    return SimpleNamespace(name=name, cube_names=joints, cubes=joints, outputs=[joint[0] for joint in joints])


def run(handler, *scans):
    engine = Engine(lambda _engine, item: item)
    handler.attach(engine)
    engine.run(list(scans))


def test_the_table_grows_scan_by_scan():
    handler = Names()
    run(handler, scan("a", "left", "right"), scan("b"), scan("c", "right"))
    assert handler.tables == [
        [],
        ["a left l", "a right r"],
        ["a left l", "a right r"],
        ["a left l", "a right r", "c right r"],
    ]


def test_a_second_run_begins_a_new_table():
    handler = Names()
    run(handler, scan("a", "left"))
    run(handler, scan("b", "left"))
    assert handler.tables[-1] == ["b left l"]


def test_outputs_and_joints_must_belong_together():
    wrong = scan("a", "left")
    wrong.outputs = []
    with pytest.raises(ValueError, match=r"zip\(\)"):
        run(Names(), wrong)
