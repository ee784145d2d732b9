"""Writes what the adapters and the documentation say of the members, from their declarations in ``adamas.rule.members``."""
