"""The reader of plain YAML reads what is plain, and refuses the rest instead of guessing."""

from __future__ import annotations

import pytest

from tests.deploy.plain import load

PAGE = """
# a comment
name: everlook
empty:
groups:
  - name: "one: quoted"
    rules:
      - alert: A
        expr: >-
          a > 1
            and b{c="d"} < 2
        for: 5m
      - 'it''s'
  - just words
flow: ["a", "b c"]
url: http://host:9090
script: |
  first
  second
"""


def test_a_plain_page_is_read() -> None:
    assert load(PAGE) == {
        "name": "everlook",
        "empty": "",
        "groups": [
            {
                "name": "one: quoted",
                "rules": [{"alert": "A", "expr": 'a > 1 and b{c="d"} < 2', "for": "5m"}, "it's"],
            },
            "just words",
        ],
        "flow": ["a", "b c"],
        "url": "http://host:9090",
        "script": "first\nsecond",
    }


@pytest.mark.parametrize(
    "text",
    [
        "a: &anchor b",
        "a: *anchor",
        "a: {b: c}",
        "a: b # c",
        "a: b: c",
        "a: 1\na: 2",
        "a: 'b' c'",
        "a: 1\n  b: 2",
        "- a\nb",
    ],
)
def test_what_is_not_plain_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        load(text)
