"""For all tests."""

import signal

# A shell starts background jobs with SIGINT ignored, and what they start inherits that: tests that interrupt
# a child would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
