"""Locks on files and folders that last as long as their holder lives."""

from __future__ import annotations


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed.

    Args:
        descriptor: of the open file.

    Returns:
        True where it is ours now, False where another process holds it, None where there are no locks: on Windows, and
        on file systems that know none.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
