"""What all tests need of their process."""

import signal

import pytest

from pymodel.litmus import all_tests

# A shell that starts tests in the background lets them ignore interrupts, and every child inherits that; the tests that
# interrupt a child need the usual disposition.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def own_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Litmus tests that the test declares are forgotten after it."""
    monkeypatch.setattr("pymodel.litmus.catalogue._REGISTRY", dict(all_tests()))
