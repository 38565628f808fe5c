r"""Autoregressive flows over flat images: masked autoregressive flow and neural spline flow, by zuko.

An affine map of each dimension that starts at mean 0 and spread 1 of the training images, then autoregressive
transforms in alternately reversed order: affine ones (Papamakarios, Pavlakou and Murray 2017, "Masked Autoregressive
Flow for Density Estimation") or monotonic rational-quadratic splines (Durkan et al. 2019, "Neural Spline Flows").

Differences from the papers: activation normalisation once, at the start, in place of batch normalisation between the
transforms; the spline flow is autoregressive, not coupled; no residual or dropout layers.

Sampling inverts one dimension after the other: D passes through each transform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bitsperdim.likelihoods import at_least_float32
from bitsperdim.models.normalizing_flow import NormalizingFlow
from bitsperdim.models.parts.bijections import ActNorm
from bitsperdim.models.parts.masked import InOrder
from bitsperdim.models.parts.rising import Affine, Rising, Spline
from bitsperdim.models.parts.triangular import TriangularMap

TRANSFORMS = ("maf", "nsf")


class AtLeastFloat32(nn.Module):
    """Under autocast the networks are of half precision, but not the maps that they parameterize: else mass is lost."""

    def forward(self, outputs: Tensor) -> Tensor:
        """Return the outputs in float32 at least."""
        return at_least_float32(outputs)


class Flow(NormalizingFlow):
    """An autoregressive flow.

    Args:
        image_shape: (C, H, W).
        n_levels: L.
        transform: ``maf``, affine, or ``nsf``, splines.
        n_transforms: how many.
        hidden_sizes: of the masked network of each.
        n_bins: of each spline; ``maf`` has none.
        logit_margin: of the logit transform; None for no logit transform.
        dequantization: ``none``, ``uniform_fixed``, ``uniform`` or ``variational``.
        variational: the sizes of learned noise.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_levels: int,
        *,
        transform: str,
        n_transforms: int,
        hidden_sizes: Sequence[int],
        n_bins: int,
        logit_margin: float | None,
        dequantization: str,
        variational: Mapping[str, int],
    ) -> None:
        """Build the flow."""
        super().__init__(
            image_shape,
            n_levels,
            logit_margin=logit_margin,
            dequantization=dequantization,
            variational=variational,
        )
        from zuko.flows import MAF, NSF  # imported here: other models need no zuko

        if transform not in TRANSFORMS:
            raise ValueError(f"transform must be one of {', '.join(TRANSFORMS)}, not {transform!r}")
        if self.n_dims < 2:
            raise ValueError("an autoregressive flow needs at least 2 dimensions, and these images have 1")
        self.n_bins = n_bins if transform == "nsf" else None
        self.normalisation = ActNorm((self.n_dims,))
        shared = {"features": self.n_dims, "transforms": n_transforms, "hidden_features": list(hidden_sizes)}
        flow = MAF(**shared) if transform == "maf" else NSF(**shared, bins=n_bins)
        self.transforms = cast(nn.ModuleList, flow.transform.transforms)
        for part in self.transforms:
            cast(nn.Sequential, part.hyper).append(AtLeastFloat32())

    @property
    def n_parameters(self) -> int:
        """The weights that the masks let through, and the rest."""
        from zuko.nn import MaskedLinear

        masks = [cast(Tensor, module.mask) for module in self.modules() if isinstance(module, MaskedLinear)]
        return super().n_parameters - sum(int((~mask).sum()) for mask in masks)

    def normalise(self, y: Tensor) -> None:
        """Give each dimension mean 0 and spread 1."""
        self.normalisation.initialise(y.flatten(1))

    def to_normal(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and ladj (B,) float64: one pass through each transform."""
        z, ladj = self.normalisation(y.flatten(1))
        ladj = ladj.double()
        for transform in self.transforms:
            z, more = transform().call_and_ladj(z)
            ladj = ladj + more.double()
        return z, ladj

    def from_normal(self, z: Tensor) -> Tensor:
        """Return y (B, C, H, W): D passes through each transform."""
        for transform in reversed(self.transforms):
            z = transform().inv(z)
        return self.normalisation.inverse(z).unflatten(1, self.image_shape)

    @property
    def is_triangular(self) -> bool:
        """One transform is; several have orders that alternate."""
        return len(self.transforms) == 1

    def triangular(self) -> TriangularMap:
        """Return the only transform, in its order."""
        return _OneTransform(self) if self.is_triangular else super().triangular()


class _OneTransform(TriangularMap):
    """The logit and the normalisation of each dimension, and one autoregressive transform; its values are what it is
    given: the normalised ones.
    """

    def __init__(self, flow: Flow) -> None:
        """Take the flow apart."""
        (transform,) = flow.transforms
        self.flow = flow
        self.order = cast(Tensor, transform.order).argsort().tolist()
        parts = list(cast(nn.Sequential, transform.hyper))
        layers = [part for part in parts if isinstance(part, nn.Linear)]
        activations = [part for part in parts if not isinstance(part, nn.Linear | AtLeastFloat32)]
        self.network = InOrder(layers, activations, self.order)

    def start(self, edges: Tensor, n_rows: int) -> Tensor:
        """Return the edges as the transform sees them: -inf and inf at the ends of a logit without margin."""
        self.network.start(n_rows)
        if self.flow.logit is not None:
            edges = self.flow.logit(edges)[0]
        shift, log_scale = self.flow.normalisation.shift.double(), self.flow.normalisation.log_scale.double()
        return (edges - shift[:, None]) * torch.exp(log_scale[:, None])

    def conditional(self, dim: int) -> Rising:
        """Return the affine map, or the spline, of one dimension."""
        raw, n_bins = self.network.outputs(dim), self.flow.n_bins
        return Affine.of_raw(raw) if n_bins is None else Spline(raw, n_bins)

    def give(self, dim: int, values: Tensor) -> None:
        """Take one value of each row."""
        self.network.give(values.to(self.flow.dtype))
