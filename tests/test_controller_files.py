"""What a controller left on disk: read whole or refused with the file untouched, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from controllers.operator import OrdersState
from daemon.controller.epoch import EPOCH_MAX, TEXT_CHARS_MAX, EpochError, next_epoch
from daemon.controller.orders_file import OrdersFileError, read_orders, write_orders


def test_an_epoch_grows_with_every_start_and_is_above_what_was_heard_of(tmp_path: Path) -> None:
    assert next_epoch(tmp_path, wall_s=1_000.0) == 1_000
    assert next_epoch(tmp_path, wall_s=500.0) == 1_001
    assert next_epoch(tmp_path, wall_s=500.0, above=7_000) == 7_001


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "0", "1.5", "\u0663", str(EPOCH_MAX), "9" * TEXT_CHARS_MAX, "9" * 5_000],
)
def test_an_epoch_file_that_makes_no_sense_is_an_error_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "epoch"
    path.write_text(text)
    with pytest.raises(EpochError, match=r"epoch"):
        next_epoch(tmp_path, wall_s=1_000.0)
    assert path.read_text() == text


def test_the_highest_epoch_is_kept_and_none_above_is_written(tmp_path: Path) -> None:
    assert next_epoch(tmp_path, wall_s=0.0, above=EPOCH_MAX - 2) == EPOCH_MAX - 1
    assert next_epoch(tmp_path, wall_s=0.0) == EPOCH_MAX
    with pytest.raises(EpochError):
        next_epoch(tmp_path, wall_s=0.0)
    (tmp_path / "epoch").write_text("5")
    with pytest.raises(EpochError, match="is kept as it was"):
        next_epoch(tmp_path, wall_s=0.0, above=EPOCH_MAX)
    assert (tmp_path / "epoch").read_text() == "5"


def test_orders_come_back_as_they_were_written(tmp_path: Path) -> None:
    orders = OrdersState(contingencies=("a-lost",), brakes=("row-1",), caps_w={"row-1": 0.5})
    assert read_orders(tmp_path) == OrdersState()
    assert write_orders(tmp_path, orders) == ""
    assert read_orders(tmp_path) == orders


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "\xff", '{"caps_w": {"row-1": 0}}', '{"caps_w": {"row-1": -900}}',
        '{"caps_w": {"row-1": NaN}}', '{"brakes": "row-1"}', '{"x": ' + "[" * 100_000,
    ],
)  # fmt: skip
def test_orders_that_make_no_sense_are_an_error_and_stay(tmp_path: Path, text: str) -> None:
    path = tmp_path / "orders.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(OrdersFileError, match=r"orders\.json"):
        read_orders(tmp_path)
    assert path.read_text(encoding="latin-1") == text
