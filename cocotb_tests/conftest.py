"""What all tests need of their process."""

import signal

# A shell that starts tests in the background lets them ignore interrupts, and every child inherits that; the tests that
# interrupt a child need the usual disposition.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
