"""Readings to forecasts: what a domain will draw, as a quantile. Pure: time is an argument."""
