"""Agents that the user already has, asked one prompt at a time."""
