"""Differences that are meant: a pattern for `scenario: path`, and why."""

MEANT = []
