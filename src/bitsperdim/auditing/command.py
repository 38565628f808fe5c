"""The commands ``bitsperdim audit`` and ``bitsperdim evaluate``, which score a model from elsewhere.

``audit`` also runs the checks. Modules that need torch are imported when a command runs. Results go to stdout. All
other output goes to stderr, also the output of the model's own code.

Invariants (``tests/auditing/test_command.py``): a model gets the same number in whatever way it is given
(``test_every_way_in_is_the_same_number``); the exit status is 0, 1 or 2 as :data:`STATUSES` says; an interrupted
audit can be resumed (``test_it_goes_on_after_an_interruption``).
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

STATUSES = "Exit status: 0 if no check failed, 2 if a check failed, 1 if the input is wrong, 130 if interrupted."
PLACES = (
    "the model: a Python file with one nn.Module or a function load (my_model.py, or my_model.py:NAME), "
    "package.module:NAME, a program of torch.export (flow.pt2), or a folder that --library saved; or arrays of numbers "
    "(scores.npz with log_p, (N,), or log_w, (K, N), in nats)"
)
OF_MODELS = (  # options that are allowed only for a model, not for arrays
    "offers",
    "inputs",
    "layout",
    "range",
    "order",
    "ode",
    "library",
    "argument",
    "weights",
    "weights_key",
    "samples",
    "seed",
    "subset",
    "device",
    "batch_size",
    "chunk_size",
    "proposal",
    "checkpoint",
    "labels",
)
FLAGS = {"offers": "--as", "argument": "-a"}
OF_DATA = ("split", "bits", "binarization", "drawn")  # allowed only with --data
PROPOSALS = ("refined", "encoder", "prior")
CERTAIN = 128  # uint8 images with a level of at least this are taken to have 256 levels
DIGITS = 12


def add_options(command: argparse.ArgumentParser, *, with_checks: bool) -> None:
    """Add the options of ``audit`` or, without checks, of ``evaluate``."""
    command.add_argument("place", metavar="PLACE", help=PLACES)
    command.add_argument("--name", metavar="TEXT", help="name of the model in the output")
    images = command.add_argument_group("images (one of --data and --images)")
    images.add_argument(
        "--data",
        metavar="NAME",
        help="digits, mnist, fashion_mnist, binarized_mnist, cifar10, a .npz file or a folder; or drawn images whose "
        "log P(x) is known: ising, hidden_markov, templates, small_pixelcnn",
    )
    images.add_argument(
        "--images", metavar="FILE.npz", help="an array of integers (N, H, W), (N, C, H, W) or (N, H, W, C)"
    )
    images.add_argument(
        "--channels", choices=("first", "last"), help="axis of the channels in --images, if the shape is ambiguous"
    )
    images.add_argument(
        "--split", choices=("train", "validation", "test"), help="which images of --data to score (default: test)"
    )
    images.add_argument("--n-levels", type=int, metavar="L", help="number of levels: 256 for values from 0 to 255")
    images.add_argument("--bits", type=int, metavar="B", help="quantize --data to 2^B levels")
    images.add_argument(
        "--drawn",
        action="append",
        metavar="KEY=VALUE",
        help="parameters of drawn images whose log P(x) is known: height, width, n_channels, n_test, strength, ...",
    )
    images.add_argument(
        "--binarization",
        choices=("none", "threshold", "dynamic"),
        help="how to binarize --data (default: as the data set)",
    )
    images.add_argument(
        "--train",
        metavar="FILE.npz",
        help="training images, in which the audit looks for copies; FILE.npz:NAME picks one array",
    )
    images.add_argument("--subset", type=int, metavar="N", help="score only N images, chosen at random with --seed")
    images.add_argument(
        "--labels", action="store_true", default=None, help="give the model the class labels, after the images"
    )
    model = command.add_argument_group("the model")
    model.add_argument(
        "-a", dest="argument", action="append", metavar="KEY=VALUE", help="an argument of load or of the class"
    )
    model.add_argument(
        "--library", metavar="NAME", help="library of which the model is, such as zuko (docs/your-own-model.md)"
    )
    model.add_argument("--weights", metavar="FILE", help="state dict of the model: .safetensors, or from torch.save")
    model.add_argument("--weights-key", metavar="KEY", help="key of the state dict, if the file holds more than that")
    model.add_argument(
        "--as",
        dest="offers",
        metavar="METHOD",
        help="what the model offers, or what its forward returns: log_prob, logits, log_density, ...",
    )
    model.add_argument(
        "--inputs", metavar="WORD", help="scale of the images for the model: integers (default), unit or symmetric"
    )
    model.add_argument(
        "--layout",
        metavar="WORD",
        help="shape of the images for the model: channels_first (default), channels_last, flat or plane",
    )
    model.add_argument(
        "--range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="interval that holds all values of a density"
    )
    model.add_argument(
        "--ode",
        action="append",
        metavar="KEY=VALUE",
        help="settings of the differential equation of a velocity or a score: times=[0,1], n_steps, method (midpoint "
        "or rk4), probes (exact or a number), schedule (vp, ve or ot), noise (uniform, truncated_normal, gaussian)",
    )
    model.add_argument("--order", metavar="WORD", help="order of the conditionals: raster (default) or planes")
    model.add_argument(
        "--kind", choices=("exact", "lower"), help="whether log_p in arrays is exact (default) or a lower bound"
    )
    work = command.add_argument_group("the work")
    work.add_argument(
        "--samples",
        type=int,
        metavar="K",
        help="samples of a bound for each image (default: 1024; 16 with an equation)",
    )
    work.add_argument("--seed", type=int, metavar="S", help="seed of all random numbers (default: 0)")
    work.add_argument("--device", metavar="D", help="cpu, cuda or cuda:1 (default: where the model is)")
    work.add_argument("--batch-size", type=int, metavar="B", help="images at a time (default: 120)")
    work.add_argument("--chunk-size", type=int, metavar="B", help="samples at a time (default: 16)")
    work.add_argument(
        "--proposal",
        choices=PROPOSALS,
        help="proposal distribution for the latent code: the encoder's, refined for each image (default: refined); "
        "the encoder's without refinement (encoder); or the prior",
    )
    work.add_argument(
        "--checkpoint", metavar="FOLDER", help="store finished images there, so that the same command can resume"
    )
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--json", dest="form", action="store_const", const="json", help="print JSON, for a program")
    if with_checks:
        forms.add_argument(
            "--markdown", dest="form", action="store_const", const="markdown", help="print Markdown, for a pull request"
        )
        work.add_argument(
            "--seconds", type=float, metavar="S", help="approximate time limit of each check (default: 20)"
        )
        command.epilog = STATUSES
    command.set_defaults(form="text", run=audit if with_checks else evaluate)


def audit(arguments: argparse.Namespace) -> None:
    """Score a model, run all checks and print what they find; exit with status 2 if a check failed."""
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
    """Send all that the model prints to stderr; end Ctrl-C and a lack of memory with one sentence of advice."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        kept = (
            "Run the same command again to resume"
            if arguments.checkpoint
            else "To be able to resume, use --checkpoint FOLDER"
        )
        sys.stderr.write(f"\nInterrupted. {kept}.\n")
        sys.exit(130)
    except (MemoryError, RuntimeError, InputError) as error:
        from bitsperdim.runtime.stage import OUT_OF_MEMORY

        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            raise InputError(
                "There is not enough memory; try a smaller --batch-size, --chunk-size or --samples."
            ) from error
        raise


def is_arrays(arguments: argparse.Namespace) -> bool:
    """Return whether arrays of log-likelihoods are given instead of a model; refuse options that do not apply.

    Raises:
        InputError: an option does not apply, or images are missing or given twice.
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
        _refuse(arguments, ("kind",), "for a model; say with --as what the model offers")
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
        raise InputError("--kind exact is not allowed with log_w, whose average is a bound; use --kind lower.")
    log_p, log_w = scores.get("log_p"), scores.get("log_w")
    name, kind = arguments.name or path.stem, arguments.kind or "exact"
    return estimate_of_arrays(log_p, log_w, images=data, kind=kind, name=name)


def _of_model(arguments: argparse.Namespace) -> tuple[Data, np.ndarray | None, Loaded, dict[str, Any]]:
    """Return the images, their labels if the model is given labels, the model, and all other arguments."""
    import torch

    from bitsperdim.models.external.loading import load_model, parsed_arguments
    from bitsperdim.models.external.methods import is_training, module_of

    given = parsed_arguments(arguments.argument or [])
    device = _device(arguments.device)
    data, labels = _images(arguments)
    torch.manual_seed((arguments.seed or 0) % 2**31)  # random initial weights are the same when the command resumes
    loaded = load_model(
        arguments.place,
        given,
        arguments.weights,
        weights_key=arguments.weights_key,
        image_shape=data.image_shape,
        n_levels=data.n_levels,
        device=device,
        library=arguments.library,
    )
    read = ", ".join(f"{name} (sha256 {digest[:DIGITS]})" for name, digest in loaded.files.items())
    print(f"Read {read}." if read else "No file was read.", file=sys.stderr)
    name = arguments.name or loaded.name
    is_saved = arguments.place.endswith(".pt2") or Path(arguments.place).is_dir()
    if arguments.weights is None and not is_saved and not given:
        print(f"Without --weights and -a, {name} has the weights that its own code gives it.", file=sys.stderr)
    module = module_of(loaded.model)
    if module is not None and is_training(module):
        module.eval()
        print(f"{name} was in training mode; it is put into evaluation mode with model.eval().", file=sys.stderr)
    options = {
        **{key: getattr(arguments, key) for key in ("library", "offers", "inputs", "layout", "order", "subset")},
        "range": None if arguments.range is None else tuple(arguments.range),
        "ode": None if arguments.ode is None else parsed_arguments(arguments.ode, "--ode"),
        "device": device,
        "name": name,
        "checkpoint": _checkpoint(arguments, loaded, given),
    }
    settings = {key: getattr(arguments, key) for key in ("seed", "batch_size", "chunk_size", "proposal")}
    settings["n_samples"] = arguments.samples
    return data, labels, loaded, {**options, **{key: value for key, value in settings.items() if value is not None}}


def _checkpoint(arguments: argparse.Namespace, loaded: Loaded, given: dict[str, Any]) -> Path | None:
    """Return a folder for this model alone: other code, weights or arguments have another folder."""
    if arguments.checkpoint is None:
        return None
    decides = json.dumps([arguments.place, sorted(loaded.files.values()), given], sort_keys=True)
    return Path(arguments.checkpoint) / hashlib.sha256(decides.encode()).hexdigest()[:DIGITS]


def _images(arguments: argparse.Namespace) -> tuple[Data, np.ndarray | None]:
    """Return the images, and their labels if the model is to be given labels."""
    from bitsperdim.auditing.arrays import names_of, read_arrays, read_images, split_place
    from bitsperdim.evaluation.images import data_of, load_data
    from bitsperdim.models.external.loading import parsed_arguments

    train = (
        None if arguments.train is None else read_images(arguments.train, ("train", "images", "x"), arguments.channels)
    )
    if arguments.data is not None:
        if train is not None:
            raise InputError("--train is not allowed with --data, which has its own training images.")
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
        raise InputError(
            "--labels is not allowed: these images have no labels. With --images, labels are an array `labels` in the "
            "same file."
        )
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
    """Return L: the value of ``--n-levels``, or 256 for uint8 images with a level of at least :data:`CERTAIN`."""
    if arguments.n_levels is not None:
        return int(arguments.n_levels)
    if array.dtype.kind not in "iu" or not array.size:
        return 256  # the error is then about the type of the array, not about the levels
    if array.dtype.name == "uint8" and array.max() >= CERTAIN:
        print(
            "The images have values above 127, so 256 levels are assumed; set --n-levels for another number.",
            file=sys.stderr,
        )
        return 256
    raise InputError(
        f"--n-levels is missing: the images hold levels from {array.min()} to {array.max()}, but there may be more."
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
            f"--device {shown(name)} is not a device of this machine; choose cpu, or one of its {n_gpus} GPUs "
            f"(cuda:0, cuda:1, ...)."
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
