"""A libnvidia-ml.so.1 of our own with eight GPUs that heat, throttle and break as told (README)."""

from tests.libnvml.handle import FakeNvml, LockWrite, Truth, build

__all__ = ["FakeNvml", "LockWrite", "Truth", "build"]
