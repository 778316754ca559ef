"""`ampacity config` prints what loads, and the document knows every key."""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

from daemon import config_command
from daemon.config_command import json_schema
from facility import config
from facility.config import AgentConfig, ControllerConfig, SiteConfig
from facility.example import agent_config, controller_config, row_site, site_yaml
from facility.loader import KINDS, load_any, load_site

DOCUMENT = Path(__file__).parents[1] / "docs" / "site-file.md"
TABLES: dict[str, type[msgspec.Struct]] = {
    "The site file": SiteConfig,
    "gpu_models": config.GpuModelConfig,
    "node_models": config.NodeModelConfig,
    "domains": config.DomainConfig,
    "nodes": config.NodeConfig,
    "services": config.ServiceConfig,
    "trip_curves": config.TripCurveConfig,
    "contingencies": config.ContingencyConfig,
    "control": config.ControlConfig,
    "reaction": config.ReactionConfig,
    "The agent file": AgentConfig,
    "sensors": config.SensorsConfig,
    "ups": config.UpsConfig,
    "broker": config.BrokerConfig,
    "The operator file": config.OperatorConfig,
    "The controller file": ControllerConfig,
    "meters": config.MeterConfig,
    "store": config.StoreConfig,
    "http": config.HttpConfig,
    "haproxy": config.HaproxyConfig,
    "leadership": config.LeadershipConfig,
}


def ampacity_config(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="ampacity config")
    config_command.add_arguments(parser)
    return config_command.run(parser.parse_args(words))


@pytest.fixture
def site_file(tmp_path: Path) -> str:
    path = tmp_path / "site.yaml"
    path.write_text(site_yaml(row_site(nodes=8)))
    return str(path)


# ---- examples and agents ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["site", "agent", "controller"])
def test_each_example_loads_clean_as_its_kind(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ampacity_config("example", kind) == 0

    loaded = load_any(capsys.readouterr().out, kind)
    assert isinstance(loaded[0] if isinstance(loaded, tuple) else loaded, KINDS[kind])


def test_the_example_is_the_row_that_the_demo_runs(capsys: pytest.CaptureFixture[str]) -> None:
    ampacity_config("example")
    loaded = load_any(capsys.readouterr().out, "site")

    assert isinstance(loaded, tuple)
    assert loaded[0] == row_site()


def test_the_example_takes_another_size_and_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    ampacity_config("example", "--nodes", "12", "--oversubscription-ratio", "1.1")
    loaded = load_any(capsys.readouterr().out, "site")

    assert isinstance(loaded, tuple)
    assert loaded[0] == row_site(nodes=12, oversubscription_ratio=1.1)


def test_an_impossible_example_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert ampacity_config("example", "--nodes", "0") == 2

    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "ampacity config: nodes is 0; expected 1 to 4096\n")


def test_a_nodes_agent_file_comes_from_the_site_file(
    site_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("agent", "n07", "--site", site_file, "--broker-host", "mq", "--broker-port", "1884")
    assert ampacity_config(*words) == 0

    broker = config.BrokerConfig(host="mq", port=1884)
    site = load_site(Path(site_file).read_text(), "f")
    loaded = load_any(capsys.readouterr().out, "agent")
    assert loaded == agent_config(site, "n07", broker=broker)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("n7",), "site 'demo' has no node 'n7'; did you mean 'n07'?"),
        (("n07", "--broker-port", "0"), "--broker-host, --broker-port: Expected `int` >= 1"),
    ],
)
def test_an_agent_file_that_cannot_be_made_is_a_usage_error(
    words: tuple[str, ...], expected: str, site_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ampacity_config("agent", *words, "--site", site_file) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err


def test_a_bad_site_file_is_a_configuration_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("a: [\n")

    assert ampacity_config("agent", "n01", "--site", str(path)) == 78
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{path}:1: not valid YAML")


def test_print_shows_a_file_with_all_its_defaults_and_loads_again(
    site_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ampacity_config("print", site_file) == 0

    text = capsys.readouterr().out
    assert "routable: true" in text
    loaded = load_any(text, "f")
    assert isinstance(loaded, tuple)
    assert loaded[0] == row_site(nodes=8)


def test_print_reads_standard_input_and_writes_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "version: 1\nsite_file: site.yaml\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    assert ampacity_config("print", "-", "--json") == 0
    printed = capsys.readouterr().out
    assert msgspec.json.decode(printed, type=ControllerConfig) == controller_config(
        site_file="site.yaml"
    )


# ---- the schema ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["site", "agent", "controller"])
def test_the_schema_is_one_and_accepts_the_example(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ampacity_config("schema", kind) == 0
    schema = json.loads(capsys.readouterr().out)
    ampacity_config("example", kind)
    loaded = load_any(capsys.readouterr().out, kind)
    value = msgspec.to_builtins(loaded[0] if isinstance(loaded, tuple) else loaded)

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(_as_json(value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("unknown",), 1),
        (("site",), "Demo"),
        (("nodes", 0, "parents"), []),
        (("domains", 0, "kind"), "fed"),
        (("domains", 0, "rating_w"), 0),
        (("control", "lease"), 4),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(
    path: tuple[str | int, ...], value: object
) -> None:
    document = _as_json(msgspec.to_builtins(row_site(nodes=1)))
    place: Any = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, SiteConfig)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema("site")).validate(document)


def _as_json(value: object) -> Any:
    return json.loads(json.dumps(value))


# ---- the document -------------------------------------------------------------------------------


def documented() -> dict[str, dict[str, str]]:
    """The document's tables: heading, and its keys with their defaults."""
    found: dict[str, dict[str, str]] = {}
    heading = ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif row := re.fullmatch(r"\| `(\w+)` \| (.+?) \| (.+) \|", line):
            assert row[3].endswith("."), line
            found.setdefault(heading, {})[row[1]] = row[2]
    return found


def default_of(field: msgspec.structs.FieldInfo) -> str:
    """A default as the document writes it."""
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        assert field.default_factory is not msgspec.NODEFAULT
        value = field.default_factory()
    if value is None:
        return "none"
    if value == ():
        return "[]"
    if value == {} or isinstance(value, msgspec.Struct):
        return "{}"
    if isinstance(value, tuple):
        items = (f"{item:g}" if isinstance(item, float) else item for item in value)
        return f"[{', '.join(items)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("heading", TABLES)
def test_the_document_lists_every_key_with_its_default(heading: str) -> None:
    fields = msgspec.structs.fields(TABLES[heading])

    assert documented()[heading] == {field.encode_name: default_of(field) for field in fields}


def test_every_section_of_the_files_has_a_table() -> None:
    sections = {
        value
        for value in vars(config).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__name__.endswith("Config")
    }

    assert sections == set(TABLES.values())
    assert documented().keys() == TABLES.keys()
