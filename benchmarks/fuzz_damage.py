"""Damage for `fuzz.py`: random bytes, and intact files with wrong content.

A checksum or a length at the start of a file catches most random damage. So half of the JSON and safetensors files are
parsed instead, changed in their meaning, and written again without a checksum.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["damaged"]

BYTES = [
    b"NaN", b"1e999", b"-1", b"99999999999999999999999", b"[]", b"{}", b"null", b"true", b'"\\ud800"', b'""',
    b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"../../../../etc/passwd",
    b"/etc/passwd", b"<script>", b"\r\n", b'"' + b"x" * 100_000 + b'"', b"%s%n", b"cat\x1b[31m", b"\x80\x04\x95",
    "\u202e\U0001f468\u200d\U0001f469".encode(), b"PK\x03\x04", b"\xff\xd8\xff\xda",
]  # fmt: skip
"""Bytes to put in place of others."""

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 2**31, 2**63, 2**70, -(2**70), 0.5, 1e308, math.inf, -math.inf, math.nan,
    "", " ", "\ud800", "x" * 100_000, "1", "NaN", "cat", "../../etc/passwd", "/dev/zero", "<script>alert(1)</script>",
    "\x00", "\x1b[31m", "a\nb", [], {}, [[]], [None], [1, "a"], {"a": 1}, {"": {}}, ["cat"] * 5, list(range(300)),
    "F32", "F8_E4M3", "I64", [0, 10**12], [-4, 4], [2**62, 4], [0],
]  # fmt: skip
"""Values to put in place of others."""

CHECKSUM = "checksum"


def damaged(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Damage a file at random.

    Args:
        content: whole.
        others: whole files of any kind.
        chance: decides.
    """
    if chance.random() < 0.5:
        changed = _misshapen(content, chance)
        if changed is not None:
            return changed
    return _hit(content, others, chance)


def _hit(whole: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Damage the bytes in one to four places."""
    content = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        accident = chance.randrange(9)
        if accident == 0 and content:
            for _ in range(chance.randint(1, 16)):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        elif accident == 1:
            del content[place:]
        elif accident == 2:
            del content[place : place + chance.randint(1, 64)]
        elif accident == 3:
            content[place:place] = chance.randbytes(chance.randint(1, 64))
        elif accident == 4:
            content[place : place + chance.randint(0, 16)] = chance.choice(BYTES)
        elif accident == 5:
            content[place : place + 8] = chance.choice([0, 2**31 - 1, 2**32 - 1, 2**63 - 1]).to_bytes(8, "little")
        elif accident == 6:
            piece = content[place : place + chance.randint(1, 2000)]
            content[place:place] = piece * chance.randint(1, 20)
        elif accident == 7:
            other = chance.choice(others)
            content[place:] = other[chance.randrange(len(other) + 1) :]
        elif chance.random() < 0.2:
            content = bytearray(chance.choice(others))
    return bytes(content)


def _misshapen(content: bytes, chance: random.Random) -> bytes | None:
    """Change values in a JSON, JSON-lines or safetensors file; return None for other kinds."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return _misshapen_safetensors(content, chance)
    try:
        return _dumped(_changed(json.loads(text), chance), chance)
    except ValueError:
        pass
    try:
        lines = [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return _misshapen_safetensors(content, chance)
    changed = _changed(lines, chance)
    rows = changed if isinstance(changed, list) else [changed]
    return b"\n".join(_dumped(row, chance) for row in rows)


def _misshapen_safetensors(content: bytes, chance: random.Random) -> bytes | None:
    # A length of 8 bytes, as many bytes of JSON, and the numbers of the tensors.
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
    except ValueError:
        return None
    facts = header.get("__metadata__", {})
    for name, text in facts.items():
        # Facts are JSON once more.
        try:
            nested = "[" * 100_000 if chance.random() < 0.05 else None
            facts[name] = nested or _dumped(_changed(json.loads(text), chance), chance).decode()
        except ValueError:
            continue
    if not facts or chance.random() < 0.5:
        header = _changed(header, chance)
    plain = _dumped(header, chance)
    plain += b" " * (-len(plain) % 8)
    return len(plain).to_bytes(8, "little") + plain + content[8 + length :]


def _changed(whole: Any, chance: random.Random) -> Any:
    """Return JSON with one to three values changed, and without its checksum."""
    root = [copy.deepcopy(whole)]
    for one in root[0] if isinstance(root[0], list) else root:
        if isinstance(one, dict):
            one.pop(CHECKSUM, None)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(root))
        if not places:
            break
        # Values near the top and those deep within a long list are equally interesting.
        container, key = chance.choice(places[: chance.choice([3, 10, len(places)])])
        value = container[key]
        match chance.randrange(7):
            case 0 if container is not root:
                del container[key]
            case 1 if isinstance(container, dict):
                container[chance.choice(["", "x", "\ud800", f"{key} ", str(key).upper()])] = container.pop(key)
            case 2:
                container[key] = [value]
            case 3 if isinstance(value, list):
                container[key] = value * 20
            case 4:
                other, place = chance.choice(places)
                if place in other if isinstance(other, dict) else place < len(other):
                    container[key] = copy.deepcopy(other[place])
            case _:
                container[key] = copy.deepcopy(chance.choice(VALUES))
    return root[0]


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Return the positions of all values, containers before their contents."""
    queue = [node]
    for container in queue:
        keys = list(container) if isinstance(container, dict) else range(min(len(container), 50))
        for key in keys:
            yield container, key
            if isinstance(container[key], dict | list):
                queue.append(container[key])


def _dumped(value: Any, chance: random.Random) -> bytes:
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.05 and isinstance(value, dict) and value:
        # The same key twice.
        text = f"{{{json.dumps(chance.choice(list(value)))}: {json.dumps(chance.choice(VALUES[:20]))}, {text[1:]}"
    return text.encode(errors="surrogatepass")
