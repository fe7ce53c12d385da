"""Runs Llama-type models on the CPU without transformers: torch reads, a compiled kernel writes."""
