"""Points in time as records, locks and logs write them."""

from datetime import datetime, timezone


def utc_now() -> str:
    """2026-11-21T14:03:09+00:00"""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
