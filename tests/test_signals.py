"""Signals while a model trains (signals.deferred), and those that reach the parent of a child (signals.run_child)."""

import io
import os
import signal
import sys

import pytest
from conftest import TIMEOUT

from vae import signals


def run_python(code):
    """Runs code in a child process, and checks that the handlers are the same afterwards."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    code = f"import os, signal, sys, time\nparent = os.getppid()\n{code}"
    try:
        return signals.run_child([sys.executable, "-S", "-c", code])
    finally:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_the_exit_code_is_that_of_the_child():
    assert run_python("sys.exit(3)") == 3
    assert run_python("os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL


def test_sigterm_is_passed_on_and_ctrl_c_is_left_to_the_terminal():
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    code += "signal.signal(signal.SIGINT, lambda *_: sys.exit(8))\n"
    code += "os.kill(parent, signal.SIGINT)\nos.kill(parent, signal.SIGTERM)\n"
    assert run_python(f"{code}time.sleep({TIMEOUT})") == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ending", ["sys.exit(0)", "sys.exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_signal_that_the_child_has_not_handled_is_handled_afterwards(number, ending):
    code = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.kill(parent, {int(number)})\n{ending}"
    with pytest.raises(KeyboardInterrupt) as interrupt:
        run_python(code)
    assert interrupt.value.args == (number,)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_of_the_signals_after_the_first_only_ctrl_c_stops_at_once(first, capfd):
    with signals.deferred() as received:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert received == [first]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err.count("stopping at the end of this epoch") == 1


def test_a_closing_terminal_stops_no_run_that_nohup_has_started():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.deferred() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_interrupts_a_write_to_standard_error_is_told_to_the_user(capfd, monkeypatch):
    """As with a progress bar on a terminal that does not read for a while."""

    class InterruptedFile(io.FileIO):
        def write(self, content):
            os.kill(os.getpid(), signal.SIGINT)
            return super().write(content)

    stream = io.TextIOWrapper(io.BufferedWriter(InterruptedFile(2, "w", closefd=False)))
    monkeypatch.setattr(sys, "stderr", stream)
    with signals.deferred() as received:
        print("epoch 3", file=sys.stderr, flush=True)
    assert received == [signal.SIGINT]
    written = capfd.readouterr().err
    assert "stopping at the end of this epoch" in written and "epoch 3\n" in written
