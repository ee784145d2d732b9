"""Generates the signatures in the adapters and the members' documentation from the declarations in ``adamas.rule.members``."""
