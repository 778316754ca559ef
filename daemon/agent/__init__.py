"""The node's agent: a small privileged actuator that owns the hardware, and its I/O child."""
