"""``bitsperdim audit`` and ``bitsperdim evaluate``: the number of a model from elsewhere, with its checks or alone.

What needs torch is imported when a command runs. Results go to stdout; all else, of the model's own code too, goes to
stderr.

Invariants (``tests/auditing/test_command.py``): all ways in give the same number for one model
(``test_every_way_in_is_the_same_number``); the exit status is 0, 1 or 2 as :data:`STATUSES` says; an interrupted
audit goes on (``test_it_goes_on_after_an_interruption``).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitsperdim.core.errors import InputError, shown

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bitsperdim.evaluation.images import Data
    from bitsperdim.evaluation.result import Estimate
    from bitsperdim.models.external.loading import Loaded

STATUSES = "Exit status: 0 if no check failed, 2 if one did, 1 for a mistake in what was given, 130 if interrupted."
PLACES = (
    "arrays (scores.npz with log_p, (N,), or log_w, (K, N), in nats), a file with one nn.Module or a function load "
    "(my_model.py, my_model.py:NAME), package.module:NAME, or a program of torch.export (flow.pt2)"
)
OF_MODELS = (
    *("offers", "inputs", "layout", "range", "order", "argument", "weights", "weights_key", "samples", "seed"),
    *("subset", "device", "batch_size", "chunk_size", "proposal", "checkpoint", "labels"),
)
FLAGS = {"offers": "--as", "argument": "-a"}
OF_DATA = ("split", "bits", "binarization", "drawn")  # with --data alone
PROPOSALS = ("refined", "encoder", "prior")
CERTAIN = 128  # uint8 images that hold such a level have 256
DIGITS = 12


def add_options(command: argparse.ArgumentParser, *, with_checks: bool) -> None:
    """Add the options of ``audit`` or, without checks, of ``evaluate``."""
    command.add_argument("place", metavar="PLACE", help=PLACES)
    command.add_argument("--name", metavar="TEXT", help="of the model, for what is printed")
    images = command.add_argument_group("images (one of --data and --images)")
    images.add_argument(
        "--data",
        metavar="NAME",
        help="digits, mnist, fashion_mnist, binarized_mnist, cifar10, a .npz file or a folder; or images whose "
        "log P(x) is known: ising, hidden_markov, templates, small_pixelcnn",
    )
    images.add_argument("--images", metavar="FILE.npz", help="integers (N, H, W), (N, C, H, W) or (N, H, W, C)")
    images.add_argument("--channels", choices=("first", "last"), help="of --images, where their shape does not say")
    images.add_argument("--split", choices=("train", "validation", "test"), help="of --data (default: test)")
    images.add_argument("--n-levels", type=int, metavar="L", help="256 for values 0 to 255")
    images.add_argument("--bits", type=int, metavar="B", help="quantize --data to 2^B levels")
    images.add_argument(
        "--drawn",
        action="append",
        metavar="KEY=VALUE",
        help="of --data whose log P(x) is known: height, width, n_channels, n_test, strength, ...",
    )
    images.add_argument("--binarization", choices=("none", "threshold", "dynamic"), help="of --data")
    images.add_argument(
        "--train", metavar="FILE.npz", help="training images, to look for copies; FILE.npz:NAME for one array"
    )
    images.add_argument("--subset", type=int, metavar="N", help="score N images, chosen at random with --seed")
    images.add_argument(
        "--labels", action="store_true", default=None, help="give labels to the model, after the images"
    )
    model = command.add_argument_group("the model")
    model.add_argument(
        "-a", dest="argument", action="append", metavar="KEY=VALUE", help="an argument of load or the class"
    )
    model.add_argument("--weights", metavar="FILE", help="its state dict: .safetensors, or of torch.save")
    model.add_argument("--weights-key", metavar="KEY", help="of the state dict in a file with more")
    model.add_argument(
        "--as", dest="offers", metavar="METHOD", help="log_prob, logits, log_density, ...: what forward is"
    )
    model.add_argument("--inputs", metavar="WORD", help="integers (default), unit or symmetric")
    model.add_argument("--layout", metavar="WORD", help="channels_first (default), channels_last, flat or plane")
    model.add_argument("--range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="of all values of a density")
    model.add_argument("--order", metavar="WORD", help="of conditionals: raster (default) or planes")
    model.add_argument("--kind", choices=("exact", "lower"), help="of log_p in arrays: lower for a bound")
    work = command.add_argument_group("the work")
    work.add_argument("--samples", type=int, metavar="K", help="of a bound, for each image (default: 1024)")
    work.add_argument("--seed", type=int, metavar="S", help="of all randomness (default: 0)")
    work.add_argument("--device", metavar="D", help="cpu, cuda or cuda:1 (default: where the model is)")
    work.add_argument("--batch-size", type=int, metavar="B", help="images at a time (default: 120)")
    work.add_argument("--chunk-size", type=int, metavar="B", help="samples at a time (default: 16)")
    work.add_argument(
        "--proposal",
        choices=PROPOSALS,
        help="of a latent code: the encoder's, refined for each image (default); the encoder's as it is; or the prior",
    )
    work.add_argument(
        "--checkpoint", metavar="FOLDER", help="keep finished images there, so that the same command goes on"
    )
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--json", dest="form", action="store_const", const="json", help="for a program")
    if with_checks:
        forms.add_argument("--markdown", dest="form", action="store_const", const="markdown", help="for a pull request")
        work.add_argument("--seconds", type=float, metavar="S", help="that a check may take, about (default: 20)")
        command.epilog = STATUSES
    command.set_defaults(form="text", run=audit if with_checks else evaluate)


def audit(arguments: argparse.Namespace) -> None:
    """Score a model, put its number to every check, print what was found; status 2 if a check failed."""
    with _working(arguments):
        from bitsperdim.auditing.audit import audit as audited

        seconds = {} if arguments.seconds is None else {"seconds": arguments.seconds}
        if is_arrays(arguments):
            found = audited(_of_arrays(arguments), **seconds)
        else:
            data, labels, loaded, options = _of_model(arguments)
            found = audited(loaded.model, data, labels=labels, build=loaded.build, **options, **seconds)
    texts = {"text": found.summary, "json": found.as_json, "markdown": found.as_markdown}
    print(texts[arguments.form](), flush=True)
    if not found.passed:
        sys.exit(2)


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a model and print its number."""
    with _working(arguments):
        from bitsperdim.evaluation.evaluate import evaluate as evaluated

        if is_arrays(arguments):
            found = _of_arrays(arguments)
        else:
            data, labels, loaded, options = _of_model(arguments)
            found = evaluated(loaded.model, data, labels=labels, **options)
    print(_as_json(found) if arguments.form == "json" else found.summary(), flush=True)


@contextlib.contextmanager
def _working(arguments: argparse.Namespace) -> Iterator[None]:
    """Send what is printed meanwhile to stderr; say in one sentence what a user can do about memory and Ctrl-C."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        kept = (
            "the same command goes on from here" if arguments.checkpoint else "with --checkpoint FOLDER it would go on"
        )
        sys.stderr.write(f"\nInterrupted; {kept}.\n")
        sys.exit(130)
    except (MemoryError, RuntimeError, InputError) as error:
        from bitsperdim.runtime.stage import OUT_OF_MEMORY

        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            raise InputError(
                "The memory is not enough; try a smaller --batch-size, --chunk-size or --samples."
            ) from error
        raise


def is_arrays(arguments: argparse.Namespace) -> bool:
    """Return whether log-likelihoods are given instead of a model; refuse options that say nothing then.

    Raises:
        InputError: there are such options, or images are missing or there twice.
    """
    if (arguments.data is None) == (arguments.images is None):
        problem = "The images are missing" if arguments.data is None else "--data and --images exclude each other"
        raise InputError(f"{problem}: give either --data NAME or --images FILE.npz.")
    others = OF_DATA if arguments.images is not None else ("channels",)
    with_what = "--images" if arguments.images is not None else "--data"
    _refuse(arguments, others, f"with {with_what}")
    result = arguments.place.endswith(".npz")
    if result:
        _refuse(arguments, OF_MODELS, "for arrays, which are not a model")
    else:
        _refuse(arguments, ("kind",), "for a model; --as says what it offers")
    return result


def _refuse(arguments: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(arguments, name) is not None:
            flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise InputError(f"{flag} is not allowed {why}.")


def _of_arrays(arguments: argparse.Namespace) -> Estimate:
    from bitsperdim.auditing.arrays import read_scores
    from bitsperdim.evaluation.arrays import estimate_of_arrays

    path = Path(arguments.place)
    scores, (data, _) = read_scores(path), _images(arguments)
    if "log_w" in scores and arguments.kind == "exact":
        raise InputError("--kind exact is not allowed with log_w, whose average is a bound; it must be lower.")
    log_p, log_w = scores.get("log_p"), scores.get("log_w")
    name, kind = arguments.name or path.stem, arguments.kind or "exact"
    return estimate_of_arrays(log_p, log_w, images=data, kind=kind, name=name)


def _of_model(arguments: argparse.Namespace) -> tuple[Data, np.ndarray | None, Loaded, dict[str, Any]]:
    """Return the images, their labels where the model is given them, the model, and all other arguments."""
    import torch

    from bitsperdim.models.external.loading import load_model, parsed_arguments
    from bitsperdim.models.external.methods import is_training

    given = parsed_arguments(arguments.argument or [])
    device = _device(arguments.device)
    data, labels = _images(arguments)
    torch.manual_seed((arguments.seed or 0) % 2**31)  # of weights that are drawn, so that the same command goes on
    loaded = load_model(
        *(arguments.place, given, arguments.weights),
        weights_key=arguments.weights_key,
        image_shape=data.image_shape,
        n_levels=data.n_levels,
        device=device,
    )
    read = ", ".join(f"{name} (sha256 {digest[:DIGITS]})" for name, digest in loaded.files.items())
    print(f"Read {read}." if read else "No file was read.", file=sys.stderr)
    name = arguments.name or loaded.name
    if arguments.weights is None and not arguments.place.endswith(".pt2") and not given:
        print(f"{name} has the weights that its own code gives it: no --weights and no -a are given.", file=sys.stderr)
    if is_training(loaded.model):
        loaded.model.eval()  # type: ignore[attr-defined]  # a module
        print(f"{name} was in training mode and is put into evaluation mode, by model.eval().", file=sys.stderr)
    options = {
        **{key: getattr(arguments, key) for key in ("offers", "inputs", "layout", "order", "subset")},
        "range": None if arguments.range is None else tuple(arguments.range),
        "device": device,
        "name": name,
        "checkpoint": _checkpoint(arguments, loaded, given),
    }
    settings = {key: getattr(arguments, key) for key in ("seed", "batch_size", "chunk_size", "proposal")}
    settings["n_samples"] = arguments.samples
    return data, labels, loaded, {**options, **{key: value for key, value in settings.items() if value is not None}}


def _checkpoint(arguments: argparse.Namespace, loaded: Loaded, given: dict[str, Any]) -> Path | None:
    """Return a folder that other code, weights or arguments do not share."""
    if arguments.checkpoint is None:
        return None
    decides = json.dumps([arguments.place, sorted(loaded.files.values()), given], sort_keys=True)
    return Path(arguments.checkpoint) / hashlib.sha256(decides.encode()).hexdigest()[:DIGITS]


def _images(arguments: argparse.Namespace) -> tuple[Data, np.ndarray | None]:
    """Return the images, and their labels where the model is to be given them."""
    from bitsperdim.auditing.arrays import names_of, read_arrays, read_images, split_place
    from bitsperdim.evaluation.images import data_of, load_data
    from bitsperdim.models.external.loading import parsed_arguments

    train = (
        None if arguments.train is None else read_images(arguments.train, ("train", "images", "x"), arguments.channels)
    )
    if arguments.data is not None:
        if train is not None:
            raise InputError("--train is not allowed with --data, which has training images of its own.")
        options: dict[str, Any] = {key: getattr(arguments, key) for key in ("n_levels", "bits", "binarization")}
        if arguments.drawn is not None:
            options["drawn"] = parsed_arguments(arguments.drawn, "--drawn")
        data = _split(load_data(arguments.data, **options), arguments.split or "test", Path(arguments.data).stem)
    else:
        array = read_images(arguments.images, ("images", "test", "x"), arguments.channels)
        file, _ = split_place(arguments.images)
        labels = read_arrays(file, ["labels"])["labels"] if arguments.labels and "labels" in names_of(file) else None
        data = data_of(array, _levels(arguments, array), labels=labels, train=train)
    if arguments.labels and data.labels is None:
        raise InputError("--labels is not allowed: these images have no labels (of --images, an array labels).")
    return data, data.labels if arguments.labels else None


def _split(data: Data, split: str, name: str) -> Data:
    if split == "test":
        return data
    from bitsperdim.evaluation.images import data_of

    images = data.prepared.images.get(split)
    if images is None:
        raise InputError(f"--split {split} is not allowed: these data have no such split.")
    labels, train = data.prepared.labels.get(split), data.train if split == "validation" else None
    return data_of(images, data.n_levels, labels=labels, train=train, name=f"{name}-{split}")


def _levels(arguments: argparse.Namespace, array: np.ndarray) -> int | None:
    """Return L: as given, or 256 where bytes leave no doubt."""
    if arguments.n_levels is not None:
        return int(arguments.n_levels)
    if array.dtype.kind not in "iu" or not array.size:
        return 256  # so that the sentence is about what the array is
    if array.dtype.name == "uint8" and array.max() >= CERTAIN:
        print("Taken to have 256 levels, as their values say; --n-levels says otherwise.", file=sys.stderr)
        return 256
    raise InputError(
        f"--n-levels is missing: the images hold levels from {array.min()} to {array.max()}; say how many there are."
    )


def _device(name: str | None) -> torch.device | None:
    if name is None:
        return None
    import torch

    from bitsperdim.runtime.device import prepare_gpu

    n_gpus = torch.cuda.device_count()
    found = re.fullmatch(r"cpu|cuda(:(?P<index>\d{1,3}))?", name)
    if not found or (name != "cpu" and int(found["index"] or 0) >= n_gpus):
        raise InputError(
            f"--device {shown(name)} is not a device of this machine; choose cpu, or one of its {n_gpus} GPUs as "
            f"cuda:0 and so on."
        )
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda":
        prepare_gpu(device)
    return device


def _as_json(result: Estimate) -> str:
    from bitsperdim.auditing.report import Audit

    content = json.loads(Audit(result, (), result.seconds).as_json())
    for key in ("passed", "level", "checks"):
        del content[key]
    return json.dumps(content, indent=2, ensure_ascii=False)
