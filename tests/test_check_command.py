"""`ampacity check`: every problem with its line and exit code 1, or what the site adds up to."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon import check_command
from daemon.config_file import FILE_BYTES_MAX
from facility.compiler import compile_site
from facility.config import ControlConfig, LeadershipConfig, SiteConfig
from facility.example import (
    agent_config,
    agent_yaml,
    controller_config,
    controller_yaml,
    row_site,
    site_yaml,
)

NOBODY = 65534


def ampacity_check(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="ampacity check")
    check_command.add_arguments(parser)
    return check_command.run(parser.parse_args(words))


def written(folder: Path, text: str | bytes, name: str = "site.yaml") -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def unsafe() -> SiteConfig:
    """A row that is sold so often that not even the brake helps after a UPS failure."""
    return row_site(nodes=4, oversubscription_ratio=1.6)


def test_a_site_that_passes_is_proved_row_by_row_and_exits_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ampacity_check(written(tmp_path, site_yaml(row_site()))) == 0

    printed = capsys.readouterr()
    lines = [" ".join(line.split()) for line in printed.out.splitlines()]
    assert "40 nodes, 320 GPUs, policy ampacity, leases of 4 s" in lines[0]
    assert "row-1 normal 258.5 71 % 78 % 80 % 130 % 1980 21 s 3.1 s 4.2 s 4.3 PASS" in lines
    assert "ups-b ups-a-lost 206.8 89 % 98 % 100 % 150 % 1635 30 s 1.7 s 4.2 s 17.6 PASS" in lines
    assert "ups-a ups-a-lost lost PASS" in lines
    assert lines[-1].startswith("PASS: no loss of control")
    assert printed.err == ""


def test_a_site_that_fails_says_where_why_and_what_would_pass_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, site_yaml(unsafe()))
    assert ampacity_check(path) == 1

    out = capsys.readouterr().out
    lines = site_yaml(unsafe()).splitlines()
    line = 1 + next(place for place, text in enumerate(lines) if "ups-b" in text)
    assert f"{path}:{line}: domains[1]: FAIL: ups-b, ups-a-lost: where nodes go" in out
    assert "the floor 18.3 kW of 16.8 kW; would pass with at most 3 of its servers" in out
    assert "FAIL: 2 of 10 rows" in out
    assert "PASS: no loss" not in out


def test_every_problem_of_every_file_is_printed_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = site_yaml(row_site(nodes=1)).replace("[row-1]", "[row-2]").replace("shadow", "shadwo")
    one = written(tmp_path, text)
    two = written(tmp_path, "version: 1\nsite_file: 3\n", "controller.yaml")
    three = written(tmp_path, controller_yaml(controller_config()), "clean.yaml")

    assert ampacity_check(one, two, three) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{one}:")
    assert "control.shadwo: unknown key" in lines[0]
    assert lines[1].startswith(f"{two}:2: site_file: 3 is not allowed; expected text")
    assert lines[2] == f"{three}: controller file, no problems"
    assert len(lines) == 3


def test_a_controller_among_others_is_told_whether_a_standby_is_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leadership = LeadershipConfig(kind="etcd", servers=("http://10.0.0.1:2379",))
    text = controller_yaml(controller_config(site_file="site.yaml", leadership=leadership))
    path = written(tmp_path, text, "controller.yaml")
    assert ampacity_check(path) == 0
    assert "is unknown: " in capsys.readouterr().out

    written(tmp_path, site_yaml(row_site(control=ControlConfig(lease_s=4.0))))
    assert ampacity_check(path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: controller file, no problems"
    assert lines[1].startswith("WARNING: a standby's first leases come at most 1.95 s after")

    written(tmp_path, site_yaml(row_site(control=ControlConfig(lease_s=5.0))))
    assert ampacity_check("--json", path) == 0
    found = json.loads(capsys.readouterr().out)["files"][0]["leadership"]
    assert found["in_time"] is True
    assert found["takes_s"] == pytest.approx(1.95)


def test_agent_and_controller_files_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = agent_config(compile_site(row_site(nodes=1)), "n01")
    agent = written(tmp_path, agent_yaml(config), "agent.yaml")

    assert ampacity_check(agent) == 0
    assert capsys.readouterr().out == f"{agent}: agent file, no problems\n"


def test_json_is_one_document_with_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ampacity_check("--json", written(tmp_path, site_yaml(row_site()))) == 0

    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    (report,) = document["files"]
    rows = {(row["domain"], row["state"]): row for row in report["proof"]}
    assert document["ok"] is True
    assert (report["kind"], report["nodes_count"]) == ("site", 40)
    assert all(row["pass"] for row in report["proof"])
    assert rows["row-1", "normal"]["load_ratio"] == pytest.approx(1.3, rel=1e-3)
    assert rows["ups-b", "ups-a-lost"]["load_ratio"] == pytest.approx(1.5)
    assert rows["ups-b", "ups-a-lost"]["patience_s"] == 30.0
    assert rows["ups-a", "normal"]["patience_s"] is None
    assert rows["ups-a", "ups-a-lost"]["load_ratio"] is None


def test_json_carries_each_problem_in_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "version: 1\nsite_file: 3\n")

    assert ampacity_check("--json", path) == 1
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    (problem,) = document["files"][0]["problems"]
    assert document["ok"] is False
    assert (problem["path"], problem["line"], problem["key"]) == (path, 2, "site_file")
    assert problem["message"] == f"{path}:2: site_file: {problem['text']}"


# ---- files that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "1: the file is empty"),
        (b"# only this\n", "1: the file is empty"),
        (b"a: 1\n\xff\xfe", "2: is not UTF-8 text: byte 0xff at offset 5"),
        (b"\x7fELF\x02\x00\x00", "1: the character U+007F is not allowed in YAML"),
        (b"#" * (FILE_BYTES_MAX + 1), f"1: is larger than {FILE_BYTES_MAX} bytes"),
    ],
)
def test_a_file_without_configuration_is_told_in_one_line(
    content: bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, content)

    assert ampacity_check(path) == 1
    assert capsys.readouterr().out == f"{path}:{expected}\n"


def test_a_directory_and_a_missing_file_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ampacity_check(str(tmp_path), str(tmp_path / "none.yaml")) == 1

    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}:1: cannot be read: Is a directory",
        f"{tmp_path}/none.yaml:1: cannot be read: No such file or directory",
    ]


def test_a_file_without_permission_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root may read anything, so the test steps down for one call where it runs as root."""
    path = written(tmp_path, "a: 1\n")
    Path(path).chmod(0)
    steps_down = os.geteuid() == 0
    if steps_down:
        os.seteuid(NOBODY)
    try:
        code = ampacity_check(path)
    finally:
        if steps_down:
            os.seteuid(0)

    assert code == 1
    assert capsys.readouterr().out == f"{path}:1: cannot be read: Permission denied\n"


def test_a_name_that_cannot_be_a_path_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert ampacity_check("a\0b") == 1
    assert "cannot be read: embedded null byte" in capsys.readouterr().out


def test_a_dash_reads_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = controller_yaml(controller_config())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    assert ampacity_check("-") == 0
    assert capsys.readouterr().out == "<stdin>: controller file, no problems\n"


def test_no_file_at_all_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ampacity_check()

    assert caught.value.code == 2
    assert "FILE" in capsys.readouterr().err
