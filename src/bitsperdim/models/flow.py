r"""Autoregressive flows over flattened images: masked autoregressive flow and neural spline flow, built with zuko.

The first map is affine in each dimension; initially it gives the training images mean 0 and standard deviation 1. Then
follow autoregressive transforms in alternately reversed order. They are affine (Papamakarios, Pavlakou and Murray
2017, "Masked Autoregressive Flow for Density Estimation") or monotonic rational-quadratic splines (Durkan et al. 2019,
"Neural Spline Flows").

Differences from the papers: one activation normalisation at the start instead of batch normalisation between the
transforms; the spline flow is autoregressive instead of coupled; no residual or dropout layers.

Sampling inverts one dimension after the other and needs D passes through each transform.
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
    """A conversion of network outputs to at least float32.

    Under autocast the networks run in half precision. The maps that they parameterize must not, because this would
    lose probability mass.
    """

    def forward(self, outputs: Tensor) -> Tensor:
        """Return the outputs in float32 at least."""
        return at_least_float32(outputs)


class Flow(NormalizingFlow):
    """An autoregressive flow.

    Args:
        image_shape: (C, H, W).
        n_levels: number of levels L.
        transform: kind of the transforms: ``maf`` (affine) or ``nsf`` (splines).
        n_transforms: number of autoregressive transforms.
        hidden_sizes: sizes of the hidden layers in the masked network of each transform.
        n_bins: number of bins of each spline; not used for ``maf``.
        logit_margin: margin of the logit transform; None: no logit transform.
        dequantization: ``none``, ``uniform_fixed``, ``uniform`` or ``variational``.
        variational: sizes of the network for learned noise.
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
        from zuko.flows import MAF, NSF  # imported here because other models do not need zuko

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
        """The number of free parameters, without the weights that a mask sets to zero."""
        from zuko.nn import MaskedLinear

        masks = [cast(Tensor, module.mask) for module in self.modules() if isinstance(module, MaskedLinear)]
        return super().n_parameters - sum(int((~mask).sum()) for mask in masks)

    def normalise(self, y: Tensor) -> None:
        """Set the affine map so that each dimension of y has mean 0 and standard deviation 1."""
        self.normalisation.initialise(y.flatten(1))

    def to_normal(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and ladj (B,) float64, by one pass through each transform."""
        z, ladj = self.normalisation(y.flatten(1))
        ladj = ladj.double()
        for transform in self.transforms:
            z, more = transform().call_and_ladj(z)
            ladj = ladj + more.double()
        return z, ladj

    def from_normal(self, z: Tensor) -> Tensor:
        """Return y (B, C, H, W), by D passes through each transform."""
        for transform in reversed(self.transforms):
            z = transform().inv(z)
        return self.normalisation.inverse(z).unflatten(1, self.image_shape)

    @property
    def is_triangular(self) -> bool:
        """Whether there is only one transform; several transforms alternate between two orders."""
        return len(self.transforms) == 1

    def triangular(self) -> TriangularMap:
        """Return the flow as a triangular map, in the order of its only transform."""
        return _OneTransform(self) if self.is_triangular else super().triangular()


class _OneTransform(TriangularMap):
    """The logit and the normalisation of each dimension, followed by one autoregressive transform.

    The map takes its values after logit and normalisation.
    """

    def __init__(self, flow: Flow) -> None:
        """Split the transform of the flow into layers and activations."""
        (transform,) = flow.transforms
        self.flow = flow
        self.order = cast(Tensor, transform.order).argsort().tolist()
        parts = list(cast(nn.Sequential, transform.hyper))
        layers = [part for part in parts if isinstance(part, nn.Linear)]
        activations = [part for part in parts if not isinstance(part, nn.Linear | AtLeastFloat32)]
        self.network = InOrder(layers, activations, self.order)

    def start(self, edges: Tensor, n_rows: int) -> Tensor:
        """Return the edges after logit and normalisation; without a margin the outermost ones are -inf and inf."""
        self.network.start(n_rows)
        if self.flow.logit is not None:
            edges = self.flow.logit(edges)[0]
        shift, log_scale = self.flow.normalisation.shift.double(), self.flow.normalisation.log_scale.double()
        return (edges - shift[:, None]) * torch.exp(log_scale[:, None])

    def conditional(self, dim: int) -> Rising:
        """Return the affine map or the spline for one dimension."""
        raw = self.network.outputs(dim)
        n_bins = self.flow.n_bins
        return Affine.of_raw(raw) if n_bins is None else Spline(raw, n_bins)

    def give(self, dim: int, values: Tensor) -> None:
        """Store one value for each row."""
        self.network.give(values.to(self.flow.dtype))
