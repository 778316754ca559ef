"""Fits the twin's constants to measurements, and checks each fit on what was not fitted."""
