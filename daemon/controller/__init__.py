"""The controller process: the loop around the control cycle, and what it is wired to."""
