"""The environment in which a number was computed: each difference is named once."""

from bitsperdim.core.made_with import WORDS, differing, read

HERE = {"python": "3.11.7", "torch": "2.14.1", "processor": "one", "instructions": "AVX2", "device": "CPU, 1 thread"}


def test_each_thing_that_differs_is_named_once() -> None:
    other = {key: f"other {value}" for key, value in HERE.items()}
    found = differing({"train": HERE, "evaluate": HERE}, {"train": other, "evaluate": other})
    assert found == [f"{WORDS[key]} ({value} and other {value})" for key, value in HERE.items()]
    assert differing({"train": HERE}, {"train": HERE, "evaluate": other}) == []  # unknown for one of them
    found = differing({"train": HERE, "evaluate": HERE}, {"train": HERE, "evaluate": {**HERE, "torch": "2.11.0"}})
    assert found == ["PyTorch (2.14.1 and 2.11.0)"]
    assert differing({"train": {**HERE, "n_processes": "1"}}, {"train": {**HERE, "n_processes": "2"}}) == [
        "processes (1 and 2)"
    ]


def test_what_is_read_is_text_of_known_keys() -> None:
    assert read({**HERE, "n_processes": 2, "seconds": 3.0}) == {**HERE, "n_processes": "2"}
    assert read(None) == read([1]) == read({}) == {}
