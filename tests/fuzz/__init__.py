"""Hostile input for every decoder and loader: mutators, targets, a seeded driver and atheris.

`python -m tests.fuzz --help`; docs/fuzzing.md says what is fuzzed and how to replay an input.
"""
