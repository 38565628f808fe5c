"""Scoring of the test images with the weights of one seed, in shards.

Each shard of images has its own random numbers. Several processes can therefore share the shards, and interrupted
evaluation resumes with the remaining ones: see :mod:`bitsperdim.runtime.shards`. The estimates are summarised in
:mod:`bitsperdim.evaluation.summary`.

Invariants (``tests/evaluation/test_evaluation.py``): each image is scored once, whatever the shards; each seed has its
own importance samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import nan
from pathlib import Path

import torch
from tqdm import tqdm

from bitsperdim.config.families import code_of
from bitsperdim.config.params import EvaluateSection, ProposalName
from bitsperdim.core.announcing import Announcement
from bitsperdim.core.code import needed
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import sha256
from bitsperdim.core.labels import ASCII_SIGNS
from bitsperdim.core.randomness import stream
from bitsperdim.core.units import bits_per_dim
from bitsperdim.data.prepared import PreparedImages
from bitsperdim.evaluation import contrast, latent_code, noise_of_cells, refined
from bitsperdim.evaluation.estimate import Estimate, estimated_rows, images_at_once, n_columns, samples_of
from bitsperdim.models import MODEL_FILES, ImageModel, LatentModel, check_labels
from bitsperdim.models.look_ahead import check_scorable
from bitsperdim.runtime.checkpoints import Checkpoint
from bitsperdim.runtime.distributed import is_first, world_size
from bitsperdim.runtime.shards import in_blocks

ADVICE = "a smaller evaluate.n_samples takes less time"


def evaluate_seed(
    model: ImageModel,
    prepared: PreparedImages,
    section: EvaluateSection,
    seed: int,
    device: torch.device,
    *,
    title: str = "evaluate",
    checkpoint: Checkpoint | None = None,
    may_look_ahead: bool = False,
    advice: str = ADVICE,
) -> Estimate:
    """Estimate log P(x) of the whole test set with the weights of one seed.

    Args:
        model: model that was trained with ``seed``.
        prepared: prepared images with the test split, and with the training split if noise is fitted.
        section: evaluation settings: K, sizes, the noise of densities and the seed of the samples.
        seed: training seed; each seed has its own importance samples.
        device: device on which to compute.
        title: title of the progress bar.
        checkpoint: place where finished images are stored; None: they are not stored.
        may_look_ahead: whether to skip the check that an autoregressive model does not look ahead.
        advice: hint which setting makes scoring faster, for the announcement of a long run.

    Raises:
        InputError: the model was made for other images or looks ahead, or another process stopped.
        FloatingPointError: a log-weight is NaN or +inf, or a derivative is not finite.
    """
    description = prepared.description
    if (model.image_shape, model.n_levels) != (description.image_shape, description.n_levels):
        raise InputError(
            f"The model was trained on images of shape {model.image_shape} with {model.n_levels} levels, but the test "
            f"images have shape {description.image_shape} and {description.n_levels} levels; train the model again."
        )
    check_labels(model, prepared.labels)
    model = model.to(device).eval()
    images, noise = torch.from_numpy(prepared.images["test"]), torch.from_numpy(prepared.noise["test"])
    labels = torch.from_numpy(prepared.labels["test"]) if prepared.labels else None
    proposal, is_refining = proposal_of(model, section), refined.is_refined(model, section)
    noise_from = noise_of_cells.chosen(model, prepared, section, seed, checkpoint)
    try:
        leak = nan if may_look_ahead else check_scorable(model, images, labels, noise, seed=section.seed)
    except ValueError as error:
        raise InputError(f"The model of seed {seed} cannot be evaluated: {error}.") from error
    k = samples_of(model, section.n_samples)
    n_passes = k + (refined.usual_gradients(section.refined) if is_refining else 0)
    cost = Announcement(
        title, n_passes * len(images) // world_size(), advice if k > 1 else "each test image is scored once"
    )

    def scored(block: range) -> torch.Tensor:
        at = slice(block.start, block.stop)
        mine = None
        if is_refining and isinstance(model, LatentModel):
            generators = refined.generators_of(block, section.seed, seed)
            mine = refined.refine(model, images[at].to(device), section.refined, generators)
            cost.step(int(mine.n_gradients.sum()))
        rows = estimated_rows(
            model,
            images[at],
            section.n_samples,
            chunk_size=section.chunk_size,
            generator=stream("evaluation", section.seed, seed, block.start, device=device),
            labels=None if labels is None else labels[at],
            noise=noise[at],
            proposal="prior" if proposal == "prior" else "encoder",
            encoded=None if mine is None else mine.proposal,
            noise_from=noise_from,
            first_image=block.start,
            after_chunk=cost.step,
        )
        return rows if mine is None else torch.cat([rows, mine.costs], dim=1)

    with tqdm(total=len(images), desc=title, unit="image", disable=None if is_first() else True) as bar:
        n_done, total = 0, 0.0

        def show(rows: torch.Tensor) -> None:
            nonlocal n_done, total
            n_done, total = n_done + len(rows), total + float(rows[:, 0].sum())
            log_p = total / n_done
            bar.update(len(rows))
            sign, bpd = ASCII_SIGNS[model.kind], bits_per_dim(log_p, model.image_shape)
            bar.set_postfix_str(f"{sign} {bpd:.4f} bits/dim ({-log_p:.2f} nats)")

        try:
            rows = in_blocks(
                title,
                len(images),
                images_at_once(model, section.n_samples, section.batch_size),
                n_columns(model, section.n_samples) + (refined.N_COSTS if is_refining else 0),
                scored,
                device=device,
                checkpoint=None if checkpoint is None else checkpoint.part("estimate"),
                progress=show,
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} (seed {seed})") from error
    n_own = n_columns(model, section.n_samples)
    found = Estimate.of_rows(model, section.n_samples, rows[:, :n_own], leak, noise_from)
    return replace(found, costs=rows[:, n_own:]) if is_refining else found


def proposal_of(model: ImageModel, section: EvaluateSection) -> ProposalName | None:
    """Return the proposal for the samples of a latent code; None for a model without a latent code.

    A proposal can be refined only if the model has derivatives in the code; otherwise it is the encoder's proposal.
    """
    if not isinstance(model, LatentModel):
        return None
    if section.proposal == "refined" and not refined.is_refined(model, section):
        return "encoder"
    return section.proposal


def checkpoint_of(
    folder: Path,
    family: str,
    prepared: PreparedImages,
    section: EvaluateSection,
    seed: int,
    device: torch.device,
    more_code: Sequence[Path] = (),
) -> Checkpoint:
    """Return the place for the finished images of one seed's evaluation, which no other evaluation reuses.

    Args:
        folder: folder of the trained model.
        family: family of the model.
        prepared: prepared images with the test split.
        section: evaluation settings.
        seed: training seed.
        device: device on which to compute.
        more_code: files that the model needs besides those of its family.
    """
    decides = {
        "model": [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MODEL_FILES],
        "evaluate": section.model_dump(mode="json"),
        "data": asdict(prepared.description),
        "noise": sha256(prepared.noise["test"]),
        "labels": {split: sha256(labels) for split, labels in prepared.labels.items()},
        "seed": seed,
        "device": device.type,
    }
    code = needed(Path(latent_code.__file__), Path(contrast.__file__), Path(__file__), *code_of(family), *more_code)
    return Checkpoint.of(decides, code)
