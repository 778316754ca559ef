"""Experiments as files: a document, a model that runs it, units of work, and what came out.

What the numbers mean is the model's business; this package only expands, runs, keeps and shows.
"""
