"""Hook implementations of the MCP plugin."""
from __future__ import annotations
