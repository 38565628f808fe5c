"""Seeded mutations of params.yaml: of its tree, value by value, and of its text, byte by byte."""

import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[str | int, ...]
DEPTH, LENGTH = 1_000, 20_000  # of what is nested deeply, of what is long


class Raw(str):
    """YAML that is written as it stands."""

    __slots__ = ()


# fmt: off
BOMB = Raw(  # 9^9 texts, once written out
    "[&a [x,x,x,x,x,x,x,x,x], "
    + ", ".join(f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)) + "]"
)
# one of each kind of wrong value: every leaf gets every one of them
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, -0.0, math.nan, math.inf, 1e308, 10**30, 3.5, "1e-05", "", [], [[]], {}, {"a": {"b": None}},
    "x" * LENGTH, "\ud800\x00\u202e\x1b[31m\n", Raw("[" * 60 + "]" * 60), Raw("!!python/object:os.system rm"), BOMB,
    Raw(f"0x{'f' * 5_000}"),
)
NUMBERS: tuple[Any, ...] = (
    1, 2, 3, 7, 16, 17, 255, 256, 1000, 65_536, 65_537, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**400,
    1e-5, 1e-45, 1e-300, 5e-324, 0.1, 0.5, 0.999, 1.0, 2.0, -1.5, -1e308, -math.inf,
    "1e-05", "\u0661\u0662", "0.1", "1_000", "12 ", "0x10", "½", "NaN", "yes", "none",
    *map(Raw, ("0o17", "0x1F", "0b11", "1_000", "+1", ".5", "1e5", "1e-05", "1e400", "-.INF", "~", "! 3", "&a 3")),
    *map(Raw, ("2020-01-01", "2020-13-45", "12:30:45", "!!int '3'", "!!float 3", "!!binary aGk=", "!!str 3", ".NaN")),
    *map(Raw, ("!!timestamp 1", "!<tag:x> 3", "*nowhere", "&a [*a]", "!!omap [a: 1]", "!!null ''", "!!set {a}")),
)
TEXTS: tuple[Any, ...] = (
    "", " ", "vae", "VAE", "vae ", "../x", "/etc/passwd", "a/b", "a b", "results", "models", "Results", "con", "x" * 65,
    "${dataset.name}", "$(touch x)", "; touch x", "`touch x`", "<script>alert(1)</script>", '"><b>', "%s%n{}", "\\",
    "\ufeff", "\u202etxt", "\u200b", "\x00", "\x1b[2J", "a\nb", "a\r\nb", "\u2028", "\x85", "\ud800", "\udcff", "'",
    "e\u0301" * 50, "é", "\uff56ae", "\U0001f600", "digits", "mnist", "cifar10", "npz", "folder", "binarized_mnist",
    "static", "threshold", "dynamic", "bernoulli", "coupled_logistic", "logistic", "normal", "prior", "variational",
    "none", "maf", "bfloat16", "histogram", "gaussian",
)
LISTS: tuple[Any, ...] = (
    [], [None], [0], [-1], [3, 3], [5, 4], [1.5], ["a"], [[1]], [{}], [True], [2**31], [1] * 2_000, list(range(9_999)),
    ["vae", "vae"], ["nothing"], ["vae", 3], ["x" * LENGTH], [math.nan], list(range(1, 18)), [65_536] * 16,
)
MAPPINGS: tuple[Any, ...] = (
    {}, {"family": "vae"}, {"family": None}, {"family": ["vae"]}, {"family": "vae", "train": None}, {"a": {"a": {}}},
    {"": 1}, {"a b": 1}, {"\n": 1}, {"x" * LENGTH: 1}, {"\ud800": 1}, {"0": 1}, {"epochs": 3}, {"epochs": 0},
    *map(Raw, ("{1: 2}", "{null: 2}", "{1.5: 2}", "{true: 2}", "{[a]: 2}", "{{a: 1}: 2}", "{a: 1, a: 2}", "{<<: 3}")),
    *map(Raw, ("{<<: {epochs: 3}}", "{<<: [{epochs: 3}, {epochs: 4}]}", "&m {<<: *m}", "&m {train: *m}")),
)
# fmt: on
VALUES = (HOSTILE, NUMBERS, TEXTS, LISTS, MAPPINGS)


def written_key(name: str) -> str:
    """Return a key in double quotes."""
    return str(name) if isinstance(name, Raw) else json.dumps(name)


def written(value: Any) -> str:
    """Return YAML in flow style; text is in double quotes, so that any character may stand in it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written_key(name)}: {written(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return json.dumps(value)


def document(content: dict[Any, Any]) -> bytes:
    """Return the whole file, a section a line."""
    return "".join(f"{written_key(name)}: {written(value)}\n" for name, value in content.items()).encode()


def places(node: Any, path: Path = ()) -> Iterator[Path]:
    """Return every place in the tree, inner ones too."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def leaves(content: dict[str, Any]) -> list[Path]:
    """Return the place of every value that is no mapping; a list counts as one."""
    named = [path for path in places(content) if all(isinstance(key, str) for key in path)]
    return [path for path in named if not isinstance(at(content, path), dict)]


def at(node: Any, path: Path) -> Any:
    """Return what stands at a place."""
    for key in path:
        node = node[key]
    return node


def put(content: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """Put a value in a place; return the content."""
    at(content, path[:-1])[path[-1]] = value
    return content


def replaced(content: dict[str, Any], rng: random.Random) -> None:
    """Another value, of any kind, in some place."""
    put(content, rng.choice(list(places(content))), rng.choice(rng.choice(VALUES)))


def removed(content: dict[str, Any], rng: random.Random) -> None:
    """A key or an entry is gone."""
    path = rng.choice(list(places(content)))
    del at(content, path[:-1])[path[-1]]


def added(content: dict[str, Any], rng: random.Random) -> None:
    """A key that nobody knows, or that belongs elsewhere, in some mapping."""
    mappings = [(), *(path for path in places(content) if isinstance(at(content, path), dict))]
    keys = [path[-1] for path in places(content) if isinstance(path[-1], str)]
    name = rng.choice([*rng.sample(keys, 3), *rng.sample(TEXTS, 3)])
    at(content, rng.choice(mappings))[name] = rng.choice(rng.choice(VALUES))


def renamed(content: dict[str, Any], rng: random.Random) -> None:
    """A key has another name, or one with a letter changed."""
    path = rng.choice([path for path in places(content) if isinstance(path[-1], str)])
    key = str(path[-1])
    near = key[:-1] + rng.choice(("", "x", "X", "\u017f", " "))
    mapping = at(content, path[:-1])
    mapping[rng.choice([near, key.upper(), *rng.sample(TEXTS, 2)])] = mapping.pop(key)


def swapped(content: dict[str, Any], rng: random.Random) -> None:
    """The values of two keys have changed places."""
    a, b = rng.sample(leaves(content), 2)
    value = at(content, a)
    put(put(content, a, at(content, b)), b, value)


def moved(content: dict[str, Any], rng: random.Random) -> None:
    """A section stands where another should be, or says that it is of another family."""
    names = list(content)
    if rng.random() < 0.5:
        content[rng.choice(names)] = content[rng.choice(names)]
        return
    sections = [name for name in names if isinstance(content[name], dict) and "family" in content[name]]
    content[rng.choice(sections)] = {**content[rng.choice(sections)], "family": rng.choice([*sections, "VAE", ""])}


def model_added(content: dict[str, Any], rng: random.Random) -> None:
    """A model of a strange name, with a good section, in the list too."""
    strange = ("report", "logs", "preflight", "train", "x-1", "a.b", "sections", "1a", "-", "_a", "a" * 64)
    name = rng.choice((*TEXTS, *strange))
    content[name] = {"family": "histogram", "pseudocount": 1.0}
    content["models"] = [*content["models"], name] if rng.random() < 0.7 else [name]


def of_other_images(content: dict[str, Any], rng: random.Random) -> None:
    """Other images, to which not every model fits."""
    names = ("mnist", "fashion_mnist", "binarized_mnist", "cifar10", "npz", "folder", "digits")
    content["dataset"]["name"] = rng.choice(names)
    content["dataset"]["n_levels"] = rng.choice((None, None, 2, 3, 17, 256))
    binarization = rng.choice(("none", "threshold", "dynamic", "static"))
    content["dequantize"] = {"bits": rng.choice((None, 1, 3, 7)), "binarization": binarization}
    content["models"] = rng.sample(content["models"], rng.randint(1, 9))


def resized(content: dict[str, Any], rng: random.Random) -> None:
    """A whole number of a model is another one that may be allowed."""
    models = [path for path in places(content) if "family" in content.get(path[0], ())]
    path = rng.choice([path for path in models if type(at(content, path)) is int])
    put(content, path, rng.choice((0, 1, 2, 3, 4, 5, 8, 16, 17, 33, 64, 1_000, 65_536)))


TREE = (
    replaced,
    replaced,
    removed,
    added,
    renamed,
    swapped,
    moved,
    model_added,
    *[of_other_images] * 2,
    *[resized] * 3,
)

# fmt: off
BYTES = (
    b"", b"\n", b"{", b"}", b"[", b"]", b":", b": ", b"- ", b"#", b"&a ", b"*a", b"!", b"!!set ", b"|", b"'", b'"',
    b"\t", b"\x00", b"\x07", b"\x1b[31m", b"\x7f", b"\x85", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80",
    *(text.encode() for text in ("\ufeff", "\u202e", "\u2028", "\u0085")), b"\r", b"\r\n", b"---\n", b"\n...\n", b"%",
    b"\n--- {}\n", b"%YAML 1.1\n---\n", b"%YAML 9.9\n---\n", b"%TAG ! x\n---\n", b"<<: *a", b"? ", b"@", b"`", b"\\x",
)
WHOLE: tuple[bytes, ...] = (
    b"", b" ", b"\n", b"#", b"---", b"...", b"null", b"3", b"[]", b"{}", b"- 1", b"a", b'"a"', b"\x00", b"\xff\xfe",
    b"\xef\xbb\xbf", b"[" * DEPTH, b"{a: " * DEPTH + b"}" * DEPTH, b"- " * DEPTH, b"a" * 10**6, b"1" * 10**5,
    b"x: " + BOMB.encode(), b"a: &a\n  b: *a\n", b"&a [*a]", b"&a {a: *a}", b"!!python/object/apply:os.system [ls]",
    b"a: 1\na: 2\n", b"{a: 1}{b: 2}", b"a: 1\n---\nb: 2\n", b"? [1]\n: 2\n", b"? {a: b}\n: 2\n", b"<<: 1\n", b"=: 1\n",
    b"\t- 1\n", b"!x {}", b"{2020-01-01: 1}",
)
# fmt: on


def of_text(text: bytes, rng: random.Random) -> bytes:
    """Return the file with something wrong in its characters or lines."""
    lines, place = text.splitlines(keepends=True), rng.randrange(len(text))
    line = rng.randrange(len(lines))
    is_first = rng.random() < 0.2
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: (b"" if is_first else text[:place]) + rng.choice(BYTES) + text[0 if is_first else place :],
        lambda: text[:place] + rng.choice(BYTES) + text[place + 1 :],
        lambda: text[:place] + bytes([text[place] ^ (1 << rng.randrange(8))]) + text[place + 1 :],
        lambda: text[:place],
        lambda: b"".join([*lines[:line], *lines[line + 1 :]]),
        lambda: b"".join([*lines[: line + 1], lines[line], *lines[line + 1 :]]),
        lambda: b"".join([*lines[:line], rng.choice((b" ", b"\t", b"  ")) + lines[line], *lines[line + 1 :]]),
        lambda: b"".join([*lines[:line], lines[line].lstrip(), *lines[line + 1 :]]),
        lambda: b"".join(rng.sample(lines, len(lines))),
    )
    return rng.choice(kinds)()


def mutations(text: str, content: dict[str, Any], n: int, seed: int) -> Iterator[bytes]:
    """Return ``n`` files: every one of WHOLE, and the rest by chance, up to three mistakes in one."""
    rng = random.Random(seed)
    yield from WHOLE[:n]
    for number in range(n - len(WHOLE)):
        if number % 4 == 0:
            mutated = text.encode()
            for _ in range(rng.choice((1, 1, 2, 3))):
                mutated = of_text(mutated or b" ", rng)
            yield mutated
            continue
        changed = json.loads(json.dumps(content))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            try:
                rng.choice(TREE)(changed, rng)
            except (KeyError, TypeError, AttributeError, IndexError, ValueError):
                continue  # an earlier mistake took away what this one needs
        yield document(changed)
    encodings = ("utf-16", "utf-32", "utf-8-sig", "latin-1")
    yield from (text.replace("digits", "dígits").encode(encoding) for encoding in encodings)
