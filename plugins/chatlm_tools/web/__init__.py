"""The tools that leave the machine: `web_search` and `fetch`."""
