"""The digital twin of a row, which drives the same controllers as the real one."""
