"""The program that runs a method in two processes: one for all tasks of its caller."""

import torch

from salmu_authors.testing import two_processes
from salmu_authors.testing.two_processes import two_process_weights
from salmu_core import FitOptions, UnlearningMethod

MARK = "SALMU_TEST_MARK"


class Marked(UnlearningMethod):
    """Adds what the environment says to every weight."""

    name = "marked"
    summary = "Add a number from the environment."
    family = "control"
    data = ()
    Options = FitOptions

    def unlearn(self, ctx):
        import os

        with torch.no_grad():
            for parameter in ctx.model.parameters():
                parameter.add_(float(os.environ[MARK]))


def _shift(one, other):
    """How far the weights of two tasks lie apart."""
    name = "logit_scale"
    return float(other[0][name] - one[0][name])


def test_tasks_share_a_program_and_each_has_the_environment_of_its_moment(monkeypatch):
    monkeypatch.setenv(MARK, "0")
    first = two_process_weights(Marked, {})
    program = two_processes._server.running.pid
    monkeypatch.setenv(MARK, "0.5")
    second = two_process_weights(Marked, {})
    assert two_processes._server.running.pid == program
    assert abs(_shift(first, second) - 0.5) < 1e-6


def test_a_program_that_was_killed_is_started_again(monkeypatch):
    monkeypatch.setenv(MARK, "0")
    two_process_weights(Marked, {})
    killed = two_processes._server.running
    killed.kill()
    killed.wait()
    assert len(two_process_weights(Marked, {})) == two_processes.PROCESSES
    assert two_processes._server.running.pid != killed.pid
