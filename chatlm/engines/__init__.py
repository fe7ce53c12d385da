"""Engines that turn a request into a stream of events, local models first of all."""
