"""Code of plugins: whatever it raises or leaves changed ends what it was called for, and the process is as it was."""

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import warnings

import numpy as np
import pytest
import torch

from salmu_core import losses
from salmu_core.builtin.toy import Toy
from salmu_core.errors import PluginFailure
from salmu_core.plugins.calls import plugin_code, results_to_stdout


def _called(code, who="The method x of p 1"):
    said = []
    with plugin_code(who, said.append):
        code()
    return said


def _swallow():
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def _keep(thing):
    """Enter a context for good."""
    _KEPT.append(thing)
    thing.__enter__()


_KEPT = []
CHANGES = {
    "gradients": (lambda: torch.set_grad_enabled(False), "whether gradients are taken from True to False"),
    "inference mode": (lambda: _keep(torch.inference_mode()), "inference mode"),
    "number type": (lambda: torch.set_default_dtype(torch.float64), "torch.float64"),
    "device": (lambda: torch.set_default_device("meta"), "the default device from cpu to meta"),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), "number of threads"),
    "deterministic": (lambda: torch.use_deterministic_algorithms(True), "deterministic algorithms"),
    "autocast": (lambda: _keep(torch.autocast("cpu", dtype=torch.bfloat16)), "autocast on cpu"),
    "global hook": (lambda: torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: o), "global hooks"),
    "float errors": (lambda: np.seterr(all="raise"), "floating-point errors"),
    "folder": (lambda: os.chdir("/"), "the working directory"),
    "environment": (lambda: os.environ.update(SALMU_CACHE="/secret"), "changed the environment variable SALMU_CACHE."),
    "variable gone": (lambda: os.environ.pop("PATH"), "PATH"),
    "warnings": (lambda: warnings.simplefilter("error"), "turned into errors"),
    "logging": (lambda: logging.disable(logging.CRITICAL), "logging"),
    "garbage": (gc.disable, "garbage collection"),
    "signal": (lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN), "what is done on SIGTERM"),
    "alarm": (lambda: signal.setitimer(signal.ITIMER_REAL, 1000), "an alarm"),
    "path": (lambda: sys.path.insert(0, "/x"), "sys.path"),
    "function": (lambda: setattr(losses, "pair_cosine", None), "replaced code of others: salmu_core.losses.pair_cosine"),
    "body": (lambda: setattr(losses.pair_cosine, "__code__", (lambda a, b: a).__code__), "salmu_core.losses.pair_cosine"),
    "method of a class": (lambda: setattr(Toy, "load_model", None), "salmu_core.builtin.toy.Toy.load_model"),
    "method of a base": (lambda: setattr(Toy, "split", lambda self, name: None), "salmu_core.builtin.toy.Toy.split"),
    "builtin": (lambda: setattr(losses, "len", lambda x: 1), "salmu_core.losses.len"),
    "torch": (lambda: setattr(torch.nn.functional, "normalize", None), "torch.nn.functional.normalize"),
    "tensor": (lambda: setattr(torch.Tensor, "zero_", lambda t: t), "torch.Tensor.zero_"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_left_changed_is_put_back_and_said(what, monkeypatch):
    monkeypatch.setenv("SALMU_CACHE", "/before")
    code, words = CHANGES[what]
    [said] = _called(code)
    assert said.startswith("The method x of p 1 ")
    assert words in said
    assert "/secret" not in said  # a variable may hold a token
    assert _called(lambda: None) == []
    assert losses.pair_cosine(torch.ones(1, 2), torch.ones(1, 2)).dtype == torch.float32
    assert os.environ["SALMU_CACHE"] == "/before"


def test_several_changes_and_an_error_are_put_back_too():
    said = []

    def spoil():
        torch.set_grad_enabled(False)
        os.chdir("/")
        raise ValueError("a bug")

    before = os.getcwd()
    with pytest.raises(ValueError, match="a bug"), plugin_code("X", said.append):
        spoil()
    assert len(said) == 2
    assert torch.is_grad_enabled()
    assert os.getcwd() == before


def test_global_random_state_is_put_back_without_a_word():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    assert _called(lambda: (random.seed(7), np.random.seed(7), torch.manual_seed(7))) == []
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.random.get_rng_state(), states[2])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (lambda: sys.exit(3), r"X called sys.exit\(3\)"),
        (lambda: os._exit(7), r"X called os._exit\(7\)"),
        (lambda: (_ for _ in ()).throw(KeyboardInterrupt()), "X raised KeyboardInterrupt"),
        (lambda: (_ for _ in ()).throw(type("Odd", (BaseException,), {})("why")), "X raised Odd: why"),
    ],
)
def test_leaving_the_process_is_an_error_of_the_plugin(code, words):
    with pytest.raises(PluginFailure, match=words):
        _called(code, "X")
    assert os._exit.__module__ in ("posix", "nt")


@pytest.mark.parametrize("code", [lambda: signal.raise_signal(signal.SIGINT), _swallow], ids=["plain", "swallowed"])
def test_a_key_that_somebody_pressed_ends_everything(code):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background keys are ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            _called(code)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_printed_goes_to_standard_error_and_observers_keep_standard_output(capsys):
    def speak():
        print("noise")
        with results_to_stdout():
            print("result")

    assert _called(speak) == []
    assert capsys.readouterr() == ("result\n", "noise\n")
