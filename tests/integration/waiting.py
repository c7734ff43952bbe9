"""Waiting for a condition: the only way in which these tests let time pass."""
import time


def wait_until(condition, timeout=10.0, every=0.05, what=None):
    """Calls condition() until it is true and returns what it gave; fails when time is up."""
    end = time.monotonic() + timeout
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"after {timeout} s still not: {what or condition.__doc__ or 'true'};"
                                 f" last value: {got!r:.500}")
        time.sleep(every)


def stays(condition, seconds, every=0.1, what=""):
    """Checks that condition() is true during all of that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = condition()
        assert got, f"no longer true: {what or condition.__doc__}: {got!r:.500}"
        time.sleep(every)
