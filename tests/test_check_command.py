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
from daemon.check_command import DomainLoad, site_loads
from daemon.config_file import FILE_BYTES_MAX
from facility.compiler import compile_site
from facility.config import SiteConfig
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


def test_a_clean_site_is_summed_up_and_exits_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ampacity_check(written(tmp_path, site_yaml(row_site()))) == 0

    printed = capsys.readouterr()
    lines = [" ".join(line.split()) for line in printed.out.splitlines()]
    assert "40 nodes, 320 GPUs, policy ampacity" in lines[0]
    assert "row-1 normal 258.5 336.0 130 % 202.6 78 % 183.2 71 %" in lines
    assert "ups-b ups-a-lost 206.8 336.0 162 % 202.6 98 % 183.2 89 %" in lines
    assert "ups-a ups-a-lost lost 0.0 0.0 0.0" in lines
    assert "aisle-1 air-handler-1-lost 128.5 168.0 131 % 101.3 79 % 91.6 71 %" in lines
    assert lines[-1] == "At the safe ceilings every domain is within its capacity, in every state."
    assert "WARNING" not in printed.out
    assert printed.err == ""


def test_a_contingency_shows_only_the_domains_that_it_changes() -> None:
    loads = site_loads(compile_site(row_site()))
    under = [row.domain for row in loads if row.state == "air-handler-1-lost"]

    assert under == ["aisle-1"]
    assert len([row for row in loads if row.state == "normal"]) == 15


def test_safe_ceilings_that_do_not_fit_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ampacity_check(written(tmp_path, site_yaml(unsafe()))) == 0

    out = capsys.readouterr().out
    assert "WARNING: ups-b, ups-a-lost: at the brake ceiling the worst case, 18.3 kW," in out
    assert "At the safe ceilings every domain is within" not in out


@pytest.mark.parametrize(
    ("safe_w", "brake_w", "expected"),
    [
        (1000.0, 500.0, ""),
        (1000.0000001, 500.0, ""),
        (1001.0, 500.0, "r, normal: at safe ceilings the worst case, 1.0 kW, exceeds"),
        (1001.0, 1001.0, "r, normal: at the brake ceiling the worst case, 1.0 kW, exceeds"),
    ],
)
def test_a_load_up_to_the_capacity_is_no_warning(
    safe_w: float, brake_w: float, expected: str
) -> None:
    row = DomainLoad("r", "normal", 1000.0, 2000.0, safe_w, brake_w)

    assert row.warning.startswith(expected)
    assert bool(row.warning) == bool(expected)


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
    rows = {(row["domain"], row["state"]): row for row in report["domains"]}
    assert document["ok"] is True
    assert (report["kind"], report["nodes_count"], report["warnings"]) == ("site", 40, [])
    assert rows["row-1", "normal"]["full_ratio"] == pytest.approx(1.3, rel=1e-3)
    assert rows["ups-b", "ups-a-lost"]["safe_ratio"] == pytest.approx(0.98, abs=0.01)
    assert rows["ups-a", "ups-a-lost"]["safe_ratio"] is None


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
