"""Turns good input into bad: JSON by its structure, YAML by its lines and tokens, any by its bytes.

Everything is drawn from one seeded generator, so a seed and a number name an input for ever. It
knows no message and no configuration key; what is worth mutating comes as seeds.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

SIZE_MAX: Final = 20_000
"""Longest mutated input. Bounds above this have tests of their own."""
DEPTHS: Final = (5, 31, 33, 200, 3_000)
LENGTHS: Final = (2, 63, 64, 97, 1_025, 6_000)

TEXTS: Final = (
    "", " ", "\x00", "n01\n", "\ud800", "\U0001f525", "\u202en01", "e\u0301", "\ufeff", "\u2028",
    "N01", "n02", "n99", "brake", "ups-a-lost", "row-1", "s2", "+", "#", "../../etc/passwd",
    "a/b", "NaN", "1e3", "true", "null", "-", "n-", "%s%n", "'; --", "<b>", "\x1b[2J", "\\", '"',
)  # fmt: skip
NUMBERS: Final = (
    0, -0.0, 1, -1, 2, 0.5, 1e-9, 63, 64, 65, 345, 1_980, 10_000, 10_001, 20_000.1, 1e11, 1e12,
    2**31, 2**53, 2**53 + 1, 2**62, 2**62 + 1, 2**63, 2**64, 10**30, 1e300, -1e300, 5e-324,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
OTHERS: Final = (
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "[[]]",
    '{"": 0}',
    "[null]",
    '{"node": "n01"}',
)
"""As JSON, so that each use has one of its own to change."""

RAW: Final = (
    b"\x00", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80", b"\\u",
    b"1e999", b"-", b"NaN", b"{", b"}", b"[", b'"', b",", b":", b"\n", b"\t", b"\r", b"0x1", b"//",
)  # fmt: skip
"""Broken UTF-8, and tokens that JSON and YAML stumble over."""

SCALARS: Final = (
    "", "~", ".nan", ".inf", "-.inf", "1e999", "-1", "0", "1", "0x7fffffffffffffff", "9" * 40,
    "1_000", "010", "10:30", "yes", "true", "'", '"', "''", "[", "]", "{", "}", "[]", "{}",
    "[[]]", "{a: 1}", "&a x", "*a", "*a *a", "<<: *a", "!!python/object/apply:os.system [id]",
    "!!int x", "!x y", "|", ">-", "- - -", "? ", "# x", "%TAG ! x", "@", "`", "\t", "\u2028",
    "\u00e9\u0301", "\x07", "a" * 300, "2026-11-22", "n01", "row-1", "ups-a", "1e9", "1e-9",
)  # fmt: skip
"""What may stand where a YAML value stood: traps of types, tags, anchors and quoting."""

BOMB: Final = "a0: &a0 [1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 9)
)
"""Aliases of aliases: a hundred million items in three hundred characters."""
_VALUE: Final = re.compile(r"(?<=[:\[,{-] )[^\s,\]}{\[#][^,\]}\n]*")

Change = Callable[[str], str]


class Mutator:
    """Draws mutations. `message` for JSON, `file` for text by lines, `raw` for any bytes."""

    def __init__(self, rng: random.Random) -> None:
        """Draw from `rng` alone."""
        self._rng = rng
        self._text_changes: tuple[Change, ...] = (
            self._other_value, self._other_value, self._other_value, self._drop_line,
            self._double_line, self._swap_lines, self._indent, self._insert_scalar,
            self._wrap, self._prefix, self._bomb, self._anchor,
        )  # fmt: skip

    def message(self, seed: bytes, others: Sequence[bytes] = ()) -> bytes:
        """A JSON message changed in its structure or, now and then, in its bytes."""
        rng = self._rng
        if rng.random() < 0.3:
            return self.raw(seed, others)
        document = json.loads(seed)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            document = self._changed(document)
        data = json.dumps(document, ensure_ascii=rng.random() < 0.7).encode("utf-8", "replace")
        if rng.random() < 0.1:
            data = self._doubled_key(data)
        return data[:SIZE_MAX] if rng.random() < 0.95 else self.raw(data, others)

    def file(self, seed: bytes, others: Sequence[bytes] = ()) -> bytes:
        """A text file changed in its lines and tokens or, now and then, in its bytes."""
        if self._rng.random() < 0.2:
            return self.raw(seed, others)
        text = seed.decode("utf-8", "replace")
        for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
            text = self._rng.choice(self._text_changes)(text)
        return text[:SIZE_MAX].encode("utf-8", "replace")

    def raw(self, seed: bytes, others: Sequence[bytes] = ()) -> bytes:
        """Bytes flipped, cut, repeated, spliced with another seed or with broken UTF-8."""
        rng, data = self._rng, bytearray(seed)
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            place = rng.randrange(len(data) + 1)
            end = min(len(data), place + rng.choice((1, 1, 4, 16, 64)))
            match rng.randrange(7):
                case 0 if data:
                    data[place % len(data)] ^= 1 << rng.randrange(8)
                case 1:
                    del data[place:end]
                case 2:
                    data[place:place] = data[place:end] * rng.choice((1, 2, 30))
                case 3:
                    data[place:place] = rng.choice(RAW) * rng.choice((1, 1, 1, 100, 3_000))
                case 4:
                    data[place:end] = rng.randbytes(end - place)
                case 5:
                    del data[place:]
                case _:
                    data += rng.choice(others) if others else seed
        return bytes(data[:SIZE_MAX])

    # --- JSON ---------------------------------------------------------------------------------

    def _changed(self, document: Any) -> Any:
        """The document with one node of it changed."""
        rng = self._rng
        parent: Any = None
        key: Any = None
        node = document
        while isinstance(node, dict | list) and node and (parent is None or rng.random() < 0.75):
            parent = node
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            node = node[key]
        if parent is None:
            return self._value(document)
        draw = rng.random()
        if draw < 0.1:
            del parent[key]
        elif draw < 0.18 and isinstance(parent, dict):
            parent[rng.choice((*TEXTS, *parent))] = parent.pop(key)
        elif draw < 0.26:
            copy = [node] * rng.choice((2, 65, 300))
            if isinstance(parent, list):
                parent.extend(copy)
            else:
                parent[key] = copy
        else:
            parent[key] = self._value(node)
        return document

    def _value(self, value: Any) -> Any:
        """Another value: near the old one, of another type, huge, long or deep."""
        rng = self._rng
        draw = rng.random()
        if draw < 0.3 and isinstance(value, int | float):
            return rng.choice((value + 1, value - 1, -value, value * 10, value + 0.5, 1e9 * value))
        if draw < 0.3 and isinstance(value, str):
            place = rng.randrange(len(value) + 1)
            return value[:place] + rng.choice(TEXTS) + value[place + rng.randrange(2) :]
        if draw < 0.55:
            return rng.choice(NUMBERS)
        if draw < 0.8:
            return rng.choice(TEXTS)
        if draw < 0.9:
            return json.loads(rng.choice(OTHERS))
        if draw < 0.95:
            return rng.choice((*TEXTS, "x")) * rng.choice(LENGTHS)
        for _ in range(rng.choice(DEPTHS[:4])):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value

    def _doubled_key(self, data: bytes) -> bytes:
        """The same with its first key said twice; which one counts is for the decoder to say."""
        match = re.match(rb'\{("[^"\\]*"): ("[^"\\]*"|[0-9.]+)', data)
        if match is None:
            return data
        value = self._rng.choice((b"null", b"-1", b'"n02"', match[2]))
        return b"{" + match[1] + b":" + value + b"," + data[1:]

    # --- text by lines ------------------------------------------------------------------------

    def _other_value(self, text: str) -> str:
        places = list(_VALUE.finditer(text))
        if not places:
            return text + self._rng.choice(SCALARS)
        match = self._rng.choice(places)
        return text[: match.start()] + self._rng.choice(SCALARS) + text[match.end() :]

    def _lines(self, text: str) -> tuple[list[str], int]:
        lines = text.split("\n")
        return lines, self._rng.randrange(len(lines))

    def _drop_line(self, text: str) -> str:
        lines, place = self._lines(text)
        del lines[place : place + self._rng.choice((1, 1, 3))]
        return "\n".join(lines)

    def _double_line(self, text: str) -> str:
        lines, place = self._lines(text)
        lines[place:place] = [lines[place]] * self._rng.choice((1, 1, 2, 40))
        return "\n".join(lines)

    def _swap_lines(self, text: str) -> str:
        lines, place = self._lines(text)
        other = self._rng.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
        return "\n".join(lines)

    def _indent(self, text: str) -> str:
        lines, place = self._lines(text)
        lines[place] = self._rng.choice((" ", "  ", "\t", "\u00a0", "- ")) + lines[place]
        return "\n".join(lines)

    def _insert_scalar(self, text: str) -> str:
        place = self._rng.randrange(len(text) + 1)
        return text[:place] + self._rng.choice(SCALARS) + text[place:]

    def _wrap(self, text: str) -> str:
        opening, closing = self._rng.choice((("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")))
        depth = self._rng.choice(DEPTHS)
        return opening * depth + self._rng.choice(("", "1", text[:50])) + closing * depth

    def _prefix(self, text: str) -> str:
        head = ("---\n", "%YAML 1.1\n---\n", "\ufeff", "\ufffe", "!!map\n", "# \u0085\n", "...\n")
        return self._rng.choice(head) + text + self._rng.choice(("", "\n---\n" + text, "\n..."))

    def _bomb(self, text: str) -> str:
        size = self._rng.choice((2, 2, 2, 3, 3, 3, 4, 4, 5, 7))
        cut = BOMB[: BOMB.index(f"a{size}:")]
        return self._rng.choice((cut + text, text + "\n" + cut, text + "\nx: &x [*x]\n"))

    def _anchor(self, text: str) -> str:
        lines, place = self._lines(text)
        lines[place] = lines[place].replace(": ", ": &q ", 1)
        lines.append(self._rng.choice(("extra: *q", "<<: *q", "*q : 1", "site: *q", "nodes: *q")))
        return "\n".join(lines)
