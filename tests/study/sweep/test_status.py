"""Display of a running sweep, in a terminal and in a log."""

import io
import sys

import pytest

from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.run_graph import build_run_graph
from nnunet_mamba.study.sweep.status import LOG_EVERY_S, JobStatus, StatusView, format_progress

JOBS = [Job(name, "evaluate", Command("python", ())) for name in ("first", "second")]
EPOCH = {"epoch": 12, "of": 30, "dice": [0.714, None], "seconds_left": 190.2}


@pytest.fixture
def view(tmp_path):
    said = []
    view = StatusView(build_run_graph("small", tmp_path, {}, JOBS, adopt=False), said.append)
    view.logged = said
    return view


def table(*states, detail=""):
    return [JobStatus(job, state, detail) for job, state in zip(JOBS, states, strict=True)]


def test_a_log_gets_a_line_for_each_job_that_starts_or_ends(view):
    view.update(table("running", "waiting"))
    view.update(table("running", "waiting"))
    view.update(table("done", "failed", detail="the disk is full"))
    assert view.logged == [
        "running   first",
        "done      first   the disk is full",
        "failed    second   the disk is full",
    ]


def test_a_log_gets_the_progress_every_minute(view):
    view.update(table("running", "waiting"))
    view.logged_at -= LOG_EVERY_S + 1
    view.update(table("running", "waiting", detail="epoch 3/5"))
    assert view.logged[1:] == [
        "          first   epoch 3/5",
        "          0 of 2 jobs done, 1 running, 1 waiting",
    ]


def test_a_terminal_is_redrawn_in_place(view, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    view.drawing = True
    view.update(table("running", "running", detail="epoch 3/5"))
    first = screen.getvalue()
    assert "first   epoch 3/5\n" in first and first.endswith("0 of 2 jobs done, 2 running\n")
    view.update(table("done", "running"))
    assert screen.getvalue()[len(first) :].startswith("\x1b[3F\x1b[J"), "three lines up, and cleared"


def test_progress_in_one_line():
    assert format_progress(EPOCH) == "epoch 12/30   Dice 0.71 -   3:10 left"
    assert format_progress({**EPOCH, "validation_case": 7, "seconds_left": None}) == "validates case 7"
    assert format_progress({"case": 3, "cases": 20}) == "case 3/20"
    assert format_progress({}) == ""
