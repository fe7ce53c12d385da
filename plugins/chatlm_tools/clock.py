"""The tool `clock`."""

from __future__ import annotations

import datetime
import zoneinfo

from chatlm import UsageError, one_line, tool


def describe_time(moment: datetime.datetime) -> str:
    """Write a moment so that a model can read it: the date, the weekday, the time and the zone."""
    return f"{moment:%A, %Y-%m-%d %H:%M:%S} {moment:%Z} (UTC{moment:%z}), week {moment:%V}"


@tool(permission="allow", read_only=True, group="clock")
def clock(zone: str = "") -> str:
    """Tell the current date, weekday and time.

    Args:
        zone: a time zone such as Europe/Berlin; empty for the user's own.
    """
    if not zone:
        return describe_time(datetime.datetime.now().astimezone())
    try:
        place = zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"There is no time zone {one_line(zone, 60)}; write it as Europe/Berlin."
        ) from None
    return describe_time(datetime.datetime.now(place))
