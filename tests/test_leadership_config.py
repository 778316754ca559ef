"""The `leadership` section of a controller's file: what is wrong with it is said with its key."""

from __future__ import annotations

import pytest

from facility.example import controller_config, controller_yaml
from facility.loader import ConfigError, load_controller

CONTROLLER = controller_yaml(controller_config())
LEADERSHIP = "kind: etcd\n  servers: [http://10.0.0.1:2379]\n"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kind: etcd", "kind: zookeeper", "'zookeeper' is not allowed"),
        ("kind: etcd", "kind: nats", "'http://10.0.0.1:2379' is no server of nats; expected nats"),
        ("[http://10.0.0.1:2379]", "[]", "a list of 0 is not allowed"),
        ("2379]", "2379, 'http://10.0.0.1:2379']", "is there twice"),
        ("2379]", "2379]\n  ttl_s: 0.39", "0.39 is not allowed"),
        ("2379]", "2379]\n  password_file: /p", "is of no use without username"),
        ("2379]", "2379]\n  key_file: /k", "is of no use without certificate_file"),
    ],
)
def test_what_is_wrong_with_leadership_is_said(old: str, new: str, expected: str) -> None:
    text = f"{CONTROLLER}leadership:\n  {LEADERSHIP.replace(old, new)}"
    assert load_controller(f"{CONTROLLER}leadership:\n  {LEADERSHIP}", "f").leadership is not None
    with pytest.raises(ConfigError) as caught:
        load_controller(text, "f")
    assert expected in str(caught.value)
    assert ": leadership." in str(caught.value)
