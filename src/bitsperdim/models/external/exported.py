"""Reader of a program that ``torch.export.save`` wrote; it returns a module and does not run code from the file.

``torch.export.load`` of torch 2.14 may run code from the file. It unpickles the sample inputs, and weights and
constants that the file marks as pickled. It evaluates the sizes of tensors as Python expressions, and also guards when
the program is called. It opens compiled libraries.

Here the archive is checked first, with the same reader. A file is refused if it holds anything but tensors, plain
names, arithmetic of sizes and functions of torch.ops. Guards are not run, and the switch TORCH_FORCE_WEIGHTS_ONLY_LOAD
makes torch.load accept only tensors.

Invariants (``tests/models/external/test_loading.py``): a file that would run something is refused and runs nothing
(``test_an_exported_program_runs_nothing``).
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitsperdim.core.errors import InputError, shown

PROGRAM = "models/model.json"
MEMBERS = re.compile(
    r"models/model\.json|data/(weights|constants|sample_inputs)/.*|extra/.*|\.data/.*|archive_\w+|b\w+"
)
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
SIGNS = "getitem|add|sub|mul|neg|truediv|floordiv|mod|pow|eq|ne|lt|le|gt|ge|and_|or_|not_"
FUNCTIONS = re.compile(
    rf"torch\.ops\.(aten|prims|prim|higher_order|torchvision)(\.(?!__)\w+){{1,2}}|torch\.sym_\w+|math\.\w+|_operator\.({SIGNS})"
)
PLAIN = re.compile(r"[\w.+:/ -]*")
SIZES = (ast.Expression, ast.Name, ast.Load, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp)
OPERATORS = (ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
UNREAD = ("metadata", "as_string", "guards_code")  # texts, constants, and Python code that is not run here
ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # environment variable that torch.load reads


class Exported(nn.Module):
    """An exported program as a module; it was traced in one mode and cannot change its mode."""

    def __init__(self, program: nn.Module) -> None:
        """Store the program."""
        super().__init__()
        self.program = program
        for part in self.modules():
            part.training = False

    def forward(self, *values: Tensor) -> Any:  # noqa: ANN401 - whatever it returns
        """Run the program."""
        return self.program(*values)

    def train(self, mode: bool = True) -> Exported:
        """Return the module unchanged."""
        return self


def read_exported(path: Path, device: torch.device | None = None) -> Exported:
    """Read an exported program, and move it to a device.

    Args:
        path: path of a .pt2 file.
        device: device for the program; None: the device on which it was exported.

    Raises:
        InputError: it is not a readable .pt2 file, holds something that is not allowed, or takes only one fixed number
            of images.
    """
    try:
        with _without_pickles():
            from torch.export.pt2_archive import _package as archives

            reader = archives.PT2ArchiveReader(str(path))
            with reader:
                wrong = _wrong(reader)
            if wrong:
                raise InputError(
                    f"{path} holds {wrong}; an exported program may hold only tensors and functions of torch.ops."
                )
            program = archives.load_pt2(str(path)).exported_programs["model"]
            if device is not None:
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
            _check_batches(path, program)
            return Exported(program.module(check_guards=False))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        why = (str(error).splitlines() or [""])[0][:200]
        raise InputError(
            f"{path} cannot be loaded as a program of torch.export.save by torch {torch.__version__} "
            f"({type(error).__name__}: {why})."
        ) from error


@contextmanager
def _without_pickles() -> Iterator[None]:
    """Make torch.load accept only tensors, whatever its arguments, and silence the warnings of torch."""
    before = os.environ.get(ONLY_WEIGHTS)
    logger = logging.getLogger("torch")
    level = logger.level
    os.environ[ONLY_WEIGHTS] = "1"
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[ONLY_WEIGHTS]
        else:
            os.environ[ONLY_WEIGHTS] = before


def _wrong(reader: Any) -> str:  # noqa: ANN401 - a class of torch's own
    """Return a description of the first thing in an archive that could run code; empty if there is none."""
    names = reader.get_file_names()
    if PROGRAM not in names:
        return f"no {PROGRAM}"
    for name in names:
        if not MEMBERS.fullmatch(name):
            return f"{shown(name)}"
    for name in CONFIGS:
        config = json.loads(reader.read_string(name))["config"] if name in names else {}
        for of, entry in config.items():
            if entry.get("use_pickle") or not re.match(r"(weight|tensor)_", entry["path_name"]):
                return f"{shown(of)}, which is pickled"
    return _in_program(json.loads(reader.read_string(PROGRAM)), "")


def _in_program(value: object, key: str) -> str:
    """Return a description of the first thing in a program that could run code.

    Strings are checked too, because they become Python code in many places.
    """
    if isinstance(value, dict):
        wrong = next((name for name in value if not PLAIN.fullmatch(name)), None)
        if wrong is not None:
            return f"the name {shown(wrong)}"
        found = (_in_program(item, name) for name, item in value.items() if name not in UNREAD)
        return next(filter(None, found), "")
    if isinstance(value, list):
        return next(filter(None, (_in_program(item, key) for item in value)), "")
    if not isinstance(value, str):
        return ""
    if key == "target" and value.partition(".")[0] in ("torch", "_operator", "math"):
        return "" if FUNCTIONS.fullmatch(value) else f"a call of {shown(value)}"
    if key == "expr_str":
        return "" if _is_size(value) else f"the size {shown(value)}"
    if key in ("in_spec", "out_spec") and value:
        return "" if _is_structure(json.loads(value)[1]) else f"the structure {shown(value)}"
    return "" if PLAIN.fullmatch(value) else f"the name {shown(value)}"


def _is_size(text: str) -> bool:
    """Return whether an expression is arithmetic with numbers, symbols and classes of sympy."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        if isinstance(node, ast.Call):
            fits = isinstance(node.func, ast.Name) and node.func.id[:1].isupper()
        elif isinstance(node, ast.Constant):  # strings would be evaluated too
            fits = isinstance(node.value, int | float) or (isinstance(node.value, str) and node.value.isidentifier())
        else:
            fits = isinstance(node, (*SIZES, *OPERATORS))
        if not fits:
            return False
    return True


def _is_structure(node: Any) -> bool:  # noqa: ANN401 - of JSON
    """Return whether the arguments consist only of nested tuples, lists and dicts."""
    names = json.loads(node["context"]) if node["context"] else None
    return (
        node["type"] in (None, "builtins.tuple", "builtins.list", "builtins.dict")
        and (names is None or (isinstance(names, list) and all(str(name).isidentifier() for name in names)))
        and all(_is_structure(child) for child in node["children_spec"])
    )


def _check_batches(path: Path, program: torch.export.ExportedProgram) -> None:
    taken = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    first = nodes[str(taken[0])].meta.get("val") if taken else None
    if not isinstance(first, Tensor):
        raise InputError(f"{path} takes no tensor; export a function of images, of shape (B, ...).")
    if first.ndim == 0 or isinstance(first.shape[0], int):
        n_images = first.shape[0] if first.ndim else "no"
        raise InputError(
            f"{path} was exported only for {n_images} images at a time; export it with "
            f"dynamic_shapes=({{0: torch.export.Dim('batch')}},)."
        )
