"""Shared widgets: context gauge, key hints, inputs."""
