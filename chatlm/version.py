"""Which chatlm this is."""

from __future__ import annotations


def version() -> str:
    """The version of the installed package, or of the checkout it runs from."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("chatlm")
    except PackageNotFoundError:
        return "0+checkout"
