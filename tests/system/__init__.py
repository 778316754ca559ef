"""The whole system as operators run it: real commands, real brokers, a real shared library."""
