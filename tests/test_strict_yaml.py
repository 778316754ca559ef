"""Text becomes values by the YAML 1.2 core rules, bounded, and every fault has its line."""

from __future__ import annotations

import pytest

from facility.loader import ConfigProblem, dotted
from facility.strict_yaml import (
    ALIASED_MAX,
    DEPTH_MAX,
    DIGITS_MAX,
    TEXT_CHARS_MAX,
    Unreadable,
    parse,
)


def told(text: str) -> list[str]:
    """Every problem of `text` as an operator reads it, without the path."""
    return [
        str(ConfigProblem("f", item.line, dotted(item.key), item.text)).removeprefix("f:")
        for item in parse(text).problems
    ]


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("+7", 7),
        ("1_000", "1_000"),
        ("10:30", "10:30"),
        ("4e4", 40_000.0),
        ("4.", 4.0),
        (".5", 0.5),
        ("-1.5E-3", -0.0015),
        (".", "."),
        ("2026-11-22", "2026-11-22"),
        ("12e7", 120_000_000.0),
        ("'12e7'", "12e7"),
        ("~", None),
        ("null", None),
        ("", None),
        ("=", "="),
        ("!!str 010", "010"),
        ("n01", "n01"),
    ],
)
def test_scalars_are_read_by_the_yaml_1_2_core_schema(scalar: str, expected: object) -> None:
    document = parse(f"key: {scalar}\n")

    assert document.problems == ()
    assert document.value == {"key": expected}
    assert type(document.value["key"]) is type(expected)


@pytest.mark.parametrize("number", [".nan", ".NaN", ".inf", "-.inf", "+.INF", "1e999"])
def test_a_number_that_is_not_finite_is_a_problem(number: str) -> None:
    expected = f"2: key: {number} is not allowed; expected a finite number"

    assert expected in told(f"version: 1\nkey: {number}\n")


def test_the_longest_integer_is_read_and_a_longer_one_is_a_problem() -> None:
    assert parse(f"key: {'9' * DIGITS_MAX}").problems == ()
    assert parse(f"key: {'9' * (DIGITS_MAX + 1)}").problems[0].text == (
        f"a number of more than {DIGITS_MAX} digits"
    )


def test_a_key_that_is_there_twice_is_a_problem_that_names_both_lines() -> None:
    assert told("site: demo\n# or\nsite: other\n") == [
        "3: site: is there twice; the first is on line 1"
    ]


def test_a_doubled_key_in_a_flow_mapping_is_a_problem_too() -> None:
    assert told("nodes:\n  - {name: n01, name: n09, zone: z}\n") == [
        "2: nodes[0].name: is there twice; the first is on line 2"
    ]


def test_an_anchor_may_be_used_again() -> None:
    assert parse("a: &x [1, {b: 2}]\nc: *x\n").value == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


def test_an_alias_bomb_stops_at_the_bound() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n"
    for this, last in zip("bcdefghi", "abcdefgh", strict=True):
        bomb += f"{this}: &{this} [{','.join([f'*{last}'] * 9)}]\n"

    document = parse(bomb)

    assert isinstance(document.value, Unreadable)
    assert document.problems[0].text == f"more than {ALIASED_MAX} keys and items through aliases"


def test_as_many_items_through_aliases_as_are_allowed_are_read_and_one_more_is_not() -> None:
    ten = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\nb:\n"  # an alias repeats the list and nine items
    assert parse(ten + "- *a\n" * (ALIASED_MAX // 10)).problems == ()
    over = parse(ten + "- *a\n" * (ALIASED_MAX // 10) + "c: *a\n")
    assert [problem.line for problem in over.problems] == [1]


def test_as_many_keys_and_items_as_are_allowed_are_read_and_one_more_is_not() -> None:
    text = "a: [1, 1]\nb: 1\n"  # a mapping, two keys, a list, three numbers
    assert parse(text, items_max=7).problems == ()
    assert [(item.line, item.text) for item in parse(text, items_max=6).problems] == [
        (2, "not valid YAML: more than 6 keys and items")
    ]


def test_an_alias_of_what_it_stands_in_is_a_problem() -> None:
    assert parse("a: &a [*a]").problems[0].text == f"nested deeper than {DEPTH_MAX} levels"


def test_nesting_is_bounded() -> None:
    deep = DEPTH_MAX - 1

    assert parse("[" * deep + "1" + "]" * deep).problems == ()
    too_deep = parse("[" * 100_000).problems[0].text
    assert too_deep == f"not valid YAML: nested deeper than {DEPTH_MAX} levels"


def test_a_file_beyond_the_size_limit_is_refused_unread() -> None:
    assert parse("#" + "x" * (TEXT_CHARS_MAX - 1)).problems[0].text == "the file is empty"
    assert "are too many" in parse("#" + "x" * TEXT_CHARS_MAX).problems[0].text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: the file is empty"),
        ("# nothing but a comment\n", "1: the file is empty"),
        ("a: 1\nb: [\n", "2: not valid YAML: "),
        ("a: 1\n b: 2\n", "2: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "2: not valid YAML: "),
        ("a: *x\n", "1: not valid YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 2\n", "2: not valid YAML: expected a single document"),
        ("a: 1\nb: \x07\n", "2: the character U+0007 is not allowed in YAML"),
        ("a: 1\x00b: 2\n", "1: the character U+0000 is not allowed in YAML"),
        ("a: 1\nb: !!python/object:os.system x\n", "2: b: the tag "),
        ("a: 1\nb: !!set {x}\n", "2: b: the tag "),
        ("a: 1\nb: !!int x\n", "2: b: the tag 'int' is not allowed here"),
        ("? [a]\n: 1\n", "1: a mapping or a list cannot be a key"),
        ("12: 1\n", "1: 12: a key must be text; put it in quotes"),
    ],
)
def test_text_that_is_no_configuration_is_told_by_line(text: str, expected: str) -> None:
    assert any(problem.startswith(expected) for problem in told(text)), told(text)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_count_as_an_editor_counts_them(end: str) -> None:
    text = f"# next line and line separator are no line ends: \u0085 \u2028 x{end}a: .nan{end}"

    assert parse(text).problems[0].line == 2


def test_a_problem_at_the_end_is_on_the_last_line_that_an_editor_shows() -> None:
    assert parse("a: [1,\nb\n").problems[0].line == 2
