"""Methods that are rules on gradients."""

from kdbench.method.contract import Method


def is_rule(method: type[Method]) -> bool:
    """Does it give a rule on gradients instead of a loss?"""
    return method.combine is not Method.combine
