"""Where the instruction stands in rows of fine-tuning data sets, and how the model is asked there."""

from typing import Any

import pytest

from sapo.core.errors import DataError
from sapo.tasks.layouts import layout_of, read_row

ALPACA = {"instruction": "Say it.", "input": "a", "output": "b"}


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


SYSTEM = chat(("system", "Say it."), ("user", "a"), ("assistant", "b"))


@pytest.mark.parametrize(
    ("rows", "layout"),
    [
        ([ALPACA, {**ALPACA, "input": "c"}], "alpaca"),
        ([ALPACA, {**ALPACA, "instruction": "Say it. Now."}], "other"),
        ([ALPACA, {**ALPACA, "system": "You are kind."}], "other"),
        ([{**ALPACA, "system": ""}], "alpaca"),
        ([ALPACA, SYSTEM], "other"),
        ([SYSTEM, SYSTEM], "system"),
        ([SYSTEM, chat(("system", "Say it"), ("user", "a"), ("assistant", "b"))], "other"),
        ([chat(("user", "Say it. a"), ("assistant", "b"))], "other"),
        ([{"prompt": SYSTEM["messages"][:2], "completion": SYSTEM["messages"][2:]}], "system"),
        ([{"prompt": "Say it. a", "completion": "b"}], "other"),
    ],
)
def test_the_layout_is_that_of_all_rows(rows: list[dict[str, Any]], layout: str) -> None:
    assert layout_of([read_row(row) for row in rows], "Say it.") == layout


@pytest.mark.parametrize(
    ("row", "held"),
    [
        ({"prompt": "Say it."}, "prompt"),
        ({"prompt": 3, "completion": "b"}, "prompt, completion"),
        ({"prompt": None}, "of none"),
    ],
)
def test_a_layout_that_is_not_known_names_the_columns(row: dict[str, Any], held: str) -> None:
    with pytest.raises(DataError, match=f"there are values in the columns {held}. Known: instruction and output;"):
        read_row(row)
