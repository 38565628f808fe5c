"""A conjugate model, and laws of Hamiltonian transitions and of annealing, small enough to run twice per mutant."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from bitsperdim.evaluation import annealed, hmc
from bitsperdim.likelihoods import DiagonalNormal, Likelihood
from bitsperdim.models import LatentModel
from support import laws
from support.cases import small_model


class LinearGaussian(LatentModel):
    r"""x = A z + b + s e with z and e standard normal: everything about it is known.

    "Images" are real numbers, (B, 1, 1, 3), and P(x) is a density. The columns of A are orthogonal, so that the
    posterior is normal with independent coordinates, at any temperature.

    Args:
        width: of q(z given x), in standard deviations of the posterior.
        noise: s.
    """

    def __init__(self, width: float = 1.0, noise: float = 0.7) -> None:
        super().__init__((1, 1, 3), 2)
        self.width, self.noise = width, noise
        self.register_buffer("matrix", torch.tensor([[1.2, -0.4], [0.4, 1.2], [0.6, 0.0]], dtype=torch.float64))
        self.register_buffer("offset", torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64))

    def check(self, x: Tensor, labels: Tensor | None = None, noise: Tensor | None = None) -> None:
        """Refuse nothing: the values of these images are real numbers."""

    def residual(self, x: Tensor) -> Tensor:
        return x.flatten(1) - self.offset

    def posterior(self, x: Tensor, beta: float = 1.0) -> DiagonalNormal:
        """Return p(z) p(x given z)^beta, normalised, of shape (B, Z)."""
        precision = 1 + beta * self.matrix.square().sum(0) / self.noise**2
        mean = beta * self.residual(x) @ self.matrix / self.noise**2 / precision
        return DiagonalNormal(mean, (-0.5 * precision.log()).expand(mean.shape))

    def log_p(self, x: Tensor) -> Tensor:
        """Return log P(x), (B,) nats, exact."""
        covariance = self.matrix @ self.matrix.T + self.noise**2 * torch.eye(3, dtype=torch.float64)
        mahalanobis = (self.residual(x) @ covariance.inverse() * self.residual(x)).sum(1)
        return -0.5 * (mahalanobis + covariance.logdet() + 3 * math.log(math.tau))

    def prior(self) -> DiagonalNormal:
        zeros = torch.zeros(2, dtype=torch.float64)
        return DiagonalNormal(zeros, zeros)

    def encode(self, x: Tensor) -> DiagonalNormal:
        posterior = self.posterior(x)
        return DiagonalNormal(posterior.mean, posterior.log_scale + math.log(self.width))

    def decode(self, z: Tensor) -> Likelihood:
        raise AssertionError("there is no likelihood of levels here")

    def log_p_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        mean = z @ self.matrix.T
        return DiagonalNormal(mean, torch.full_like(mean, math.log(self.noise))).log_prob(self.residual(x))

    def sample_joint(self, n_images: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        z = self.prior().rsample(n_images, generator=generator)
        noise = self.noise * torch.randn(n_images, 3, generator=generator, dtype=torch.float64)
        return z, (z @ self.matrix.T + self.offset + noise).reshape(n_images, 1, 1, 3)


class Coupled(LinearGaussian):
    """Columns that are not orthogonal: the coordinates of the posterior depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix[:, 1] = torch.tensor([0.9, 0.6, 0.1], dtype=torch.float64)

    @property
    def precision(self) -> Tensor:
        return torch.eye(2, dtype=torch.float64) + self.matrix.T @ self.matrix / self.noise**2

    def encode(self, x: Tensor) -> DiagonalNormal:
        mean = self.residual(x) @ self.matrix @ self.precision.inverse() / self.noise**2
        return DiagonalNormal(mean, (-0.5 * self.precision.diagonal().log()).expand(mean.shape))


IMAGES = torch.tensor([[0.3, -0.2, 1.0], [2.0, 0.5, 1.0], [-1.0, 1.5, 0.3]], dtype=torch.float64).reshape(3, 1, 1, 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conjugate(width: float = 1.0, noise: float = 0.7) -> LinearGaussian:
    return LinearGaussian(width, noise).eval()


@cache
def curved() -> tuple[LatentModel, Tensor]:
    """Return a real VAE with a latent of two dimensions and all its images."""
    model = small_model("vae-bernoulli")
    with torch.no_grad():
        for layer in (model.decoder, model.to_outputs):
            for parameter in layer.parameters():
                parameter.mul_(1.2)  # the posterior is to be far from the prior, and bent
    return model, laws.all_images(model.image_shape, model.n_levels)


def z_score(values: Tensor, truth: float = 0.0) -> Tensor:
    """Return by how many standard errors the means of independent values (K, ...) are off."""
    return (values.mean(0) - truth) / (values.std(0) / math.sqrt(len(values)))


def far_from_zero(scores: Tensor) -> None:
    worst = scores.abs().max().item()
    assert worst < laws.FAR, f"a mean is {worst:.1f} standard errors off"


def means_are(values: Tensor, truth: float, largest_error: float) -> None:
    """The means of independent values (K, ...) are right, and known well enough for that to mean something."""
    error = (values.std(0) / math.sqrt(len(values))).max().item()
    assert error < largest_error, f"a mean has a standard error of {error:.3g}, which says nothing"
    far_from_zero(z_score(values, truth))


# Laws of one trajectory.


def phase_point(n_chains: int) -> tuple[hmc.Path, hmc.Position, Tensor, Tensor]:
    """Return path, position, momentum and step sizes: all images of the curved model, scattered."""
    model, x = curved()
    generator = seeded(3)
    path = hmc.Path(model, x)
    position = path.at(model.draw_latents(n_chains, len(x), generator=generator))
    momentum = torch.randn(position.z.shape, generator=generator, dtype=torch.float64)
    return path, position, momentum, torch.linspace(0.1, 0.4, len(x), dtype=torch.float64)


def leapfrog_is_reversible() -> None:
    """Forwards, momentum reversed, forwards again, momentum reversed: back at the start."""
    path, position, momentum, step = phase_point(5)
    end, final = hmc.leapfrog(path, position, momentum, 0.7, step, 6)
    assert (end.z - position.z).abs().mean() > 0.3, "the trajectory goes nowhere"
    back, again = hmc.leapfrog(path, end, -final, 0.7, step, 6)
    torch.testing.assert_close(back.z, position.z, rtol=0, atol=1e-11)
    torch.testing.assert_close(-again, momentum, rtol=0, atol=1e-11)


def leapfrog_preserves_volume() -> None:
    """The Jacobian determinant of (z, v) -> (z', v') is 1.

    Of the conjugate model the map is affine, and differences are exact; of the VAE they are central ones.
    """
    model, x = curved()
    for path, z_0, step, tolerance in (
        (hmc.Path(conjugate(), IMAGES[1:2]), torch.zeros(2), 1.0, 1e-12),
        (hmc.Path(model, x[5:6]), torch.tensor([0.3, -0.8]), 1e-5, 1e-7),
    ):
        basis = torch.cat([torch.eye(4), -torch.eye(4)]).double() * step  # rows: the start moved in each direction
        z, v = (z_0.double() + basis[:, :2])[:, None], (0.5 + basis[:, 2:])[:, None]  # (8, 1, 2)
        end, final = hmc.leapfrog(path, path.at(z), v, 0.7, torch.tensor([0.3], dtype=torch.float64), 5)
        moved = torch.cat([end.z, final], -1)[:, 0]  # (8, 4)
        jacobian = (moved[:4] - moved[4:]) / (2 * step)
        assert (jacobian - torch.eye(4)).abs().max() > 0.3, "the map is nearly the identity"
        assert abs(jacobian.det().item() - 1) < tolerance, f"the determinant is {jacobian.det().item()}"


def the_hamiltonian_is_kept_to_second_order() -> None:
    """Half the step size and twice as many steps: a quarter of the error."""
    path, position, momentum, _ = phase_point(20)
    errors = []
    for n_leapfrog in (16, 32, 64):
        step = torch.full((16,), 1.0 / n_leapfrog, dtype=torch.float64)
        end, final = hmc.leapfrog(path, position, momentum, 0.7, step, n_leapfrog)
        before, after = (
            0.5 * v.square().sum(-1) - path.start.log_prob(at.z) - 0.7 * at.log_ratio
            for at, v in ((position, momentum), (end, final))
        )
        errors.append((after - before).abs().mean().item())
    assert errors[0] < 0.1
    for coarse, fine in pairwise(errors):
        assert 3.5 < coarse / fine < 4.5, f"half the step has 1/{coarse / fine:.2f} of the error"


# Laws of transitions.


def transitions(n_chains: int, n_transitions: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Start in the target and move: return start and end in standard units, (K, B, 2), and the mean acceptance."""
    model, beta = conjugate(), 0.6
    target, path, generator = model.posterior(IMAGES, beta), hmc.Path(model, IMAGES), seeded(seed)
    z = target.rsample(n_chains, generator=generator)
    position, step = path.at(z), torch.tensor([0.72, 0.78, 0.84], dtype=torch.float64)
    for _ in range(n_transitions):
        position, probability = hmc.transition(path, position, beta, step, 3, generator)
    start, end = ((at - target.mean) * torch.exp(-target.log_scale) for at in (z, position.z))
    return start, end, probability.mean()


def the_target_is_invariant() -> None:
    """Chains that start in the target stay in it: moments up to the fourth; 27 means, once in 37,000 seeds."""
    start, u, acceptance = transitions(20_000, 3)
    assert 0.3 < acceptance < 0.9, "the decision must matter"
    moved = (u - start).abs().mean()
    assert moved > 0.5, f"the chains hardly move: {moved:.2f}"
    for values, truth in ((u, 0.0), (u**2, 1.0), (u**4, 3.0)):
        far_from_zero(z_score(values, truth))
    far_from_zero(z_score(u[..., 0] * u[..., 1]))
    far_from_zero(z_score(u**3))


def a_transition_is_its_own_reverse() -> None:
    """Detailed balance: a(z) b(z') and b(z) a(z') have the same mean; 12 means, once in 80,000 seeds."""
    start, end, _ = transitions(20_000, 1, seed=1)
    assert (start == end).all(-1).double().mean() > 0.1, "some must stay"
    far_from_zero(z_score(start * end**3 - start**3 * end))
    far_from_zero(z_score(start**2 * end**4 - start**4 * end**2))


# Laws of annealing.


def weights_average_to_the_density() -> None:
    """E[w] = P(x) for three images with adapted step sizes: once in 300,000 seeds. The weights are bounded."""
    model = conjugate()
    result = annealed.ais(model, IMAGES, 3_000, 6, generator=seeded(), n_leapfrog=3)
    means_are((result.log_w - model.log_p(IMAGES)).exp(), 1.0, 0.05)
    assert (result.ess < 2_900).all(), "the weights must vary"


def weights_from_a_start_average_to_the_density() -> None:
    """E[w] = P(x) where chains start at a density that is too wide, of the posterior alone: once in 300,000 seeds."""
    model = conjugate(width=2.0)
    result = annealed.ais(model, IMAGES, 3_000, 6, generator=seeded(), n_leapfrog=3, start=model.encode(IMAGES))
    means_are((result.log_w - model.log_p(IMAGES)).exp(), 1.0, 0.05)
    assert (result.ess < 2_990).all(), "the weights must vary"


def reverse_weights_from_a_start_average_to_the_density() -> None:
    """E[1/w] = 1/P(x) where chains end at a density that is narrower, pooled over 4,000 images; once in a million.

    Where the start is narrower than the posterior, 1/w is bounded.
    """
    model = conjugate(width=0.8)
    options = {"n_leapfrog": 3, "n_pilot_chains": 2, "start_of": model.encode}
    bracket = annealed.bdmc(model, 4_000, 1, 5, generator=seeded(), **options)  # type: ignore[arg-type]
    ratio = (model.log_p(bracket.x) - bracket.reverse.log_w[0]).exp()
    assert ratio.std() > 0.01, "the weights must vary"
    means_are(ratio, 1.0, 0.03)


def simulated(
    n_steps: int, n_images: int = 3_000, seed: int = 0, noise: float = 0.7
) -> tuple[annealed.Bracket, Tensor]:
    """Return brackets of one chain each and the exact log P(x)."""
    model = conjugate(noise=noise)
    bracket = annealed.bdmc(model, n_images, 1, n_steps, generator=seeded(seed), n_leapfrog=3, n_pilot_chains=2)
    return bracket, model.log_p(bracket.x)


def reverse_weights_average_to_the_density() -> None:
    """E[1/w] = 1/P(x), pooled over 4,000 simulated images: once in a million seeds.

    More noise than elsewhere: 1/w is not bounded, and with less noise its tail is so heavy that no mean can be tested.
    """
    bracket, log_p = simulated(5, 4_000, noise=2.0)
    means_are((log_p - bracket.reverse.log_w[0]).exp(), 1.0, 0.03)


def the_bracket_holds_on_average() -> None:
    """With one chain each bound is off by a relative entropy, so that both differences are far from zero.

    Their means over 3,000 images are more than 30 standard errors from zero; 4.9 are asked for.
    """
    bracket, log_p = simulated(4)
    below, above = z_score(bracket.lower - log_p).item(), z_score(bracket.upper - log_p).item()
    assert below < -laws.FAR, f"the lower bound is {below:.1f} standard errors from the truth"
    assert above > laws.FAR, f"the upper bound is {above:.1f} standard errors from the truth"


def the_bracket_holds_with_many_chains() -> None:
    """With 20 chains both are much nearer; neither may be on the wrong side by more than 4.9 standard errors."""
    model = conjugate()
    bracket = annealed.bdmc(model, 500, 20, 4, generator=seeded(), n_leapfrog=3, n_pilot_chains=2)
    log_p = model.log_p(bracket.x)
    assert z_score(bracket.lower - log_p).item() < laws.FAR
    assert z_score(bracket.upper - log_p).item() > -laws.FAR
    assert abs((bracket.lower - log_p).mean()) < 0.2  # 3.0 with one chain
    assert abs((bracket.upper - log_p).mean()) < 0.9  # 1.2 with one chain; all start at the same draw
