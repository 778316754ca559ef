"""The test suite: what the system must do, as sentences. Helpers are imported as `tests.name`."""
