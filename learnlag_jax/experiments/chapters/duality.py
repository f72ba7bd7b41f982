"""The chapter "duality": one estimation task as a Lagrangian, as a Hamiltonian, and as a control problem (eq. 21, Insight 4).

The scalar is V(q), minus the mean log-likelihood of a logistic regression that tells handwritten threes from eights. With
the mass M = F^(1/2), F the Fisher information at the fit, L = v'Mv/2 - V(q) and its Legendre transform H are compared along
their trajectories, and a control problem is posed whose costate must be the momentum.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import control, fisher, variation
from learnlag_jax.experiments import data
from learnlag_jax.experiments.chapters.duality_figures import duality_figure
from learnlag_jax.experiments.claims import Chapter, Claim, Dataset, Settings

EPS = float(np.finfo(np.float64).eps)
GAMMA = 0.3


class Task(NamedTuple):
    """The estimation task: loss V, mass matrix M, where the parameter starts, and the data it came from."""

    loss: Callable[[jax.Array], jax.Array]
    mass: jax.Array
    start: jax.Array
    dataset: Dataset


def chapter(settings: Settings) -> Chapter:
    """Build the task, transform it both ways, and compare trajectories."""
    task = _task(components=5 if settings.quick else 12)
    steps, h = (200, 0.05) if settings.quick else (800, 0.0125)
    L = fisher.particle_lagrangian(task.loss, task.mass)
    H = variation.hamiltonian(L)
    flows = _flows(L, H, task, steps, h)
    duel = _control(task, steps=40)
    return Chapter(
        "duality",
        "Duality: one learning problem, three descriptions",
        "From L(q, v) = v'Mv/2 - V(q), V minus a real log-likelihood, the Legendre transform derives H(q, p) by solving "
        "dL/dv = p. The two give the same trajectories, and so does a control problem whose costate is the momentum.",
        (*_transforms(task, L, H), *_trajectories(task, flows, h), *_costates(task, duel)),
        (duality_figure(flows.times, flows.losses, flows.damped_losses, GAMMA, duel.p, duel.answer.costates),),
        (),
        (
            (
                "Reinforcement learning is the Legendre transform of parameter estimation under Adam / RMSprop (Insight 4).",
                "With the metric held fixed it is: same trajectories, costate = momentum, shown here to rounding. With Adam's "
                "moving metric a term -M^-1 (dM/dt) v is missing (chapter fisher). The control problem's path is a maximum of "
                f"its reward only before the first conjugate point (smallest pivot here {float(duel.answer.pivot):.2g} > 0).",
            ),
            (
                "The potential energy is +l (eq. 26).",
                "A particle that climbs the log-likelihood l moves in the potential -l. The field equation (27-30) needs +l, the "
                "particle -l; the sign of V here is the particle's, and the flipped sign is a control that is rejected.",
            ),
        ),
        (task.dataset,),
    )


def _task(components: int) -> Task:
    """Threes against eights: the leading principal components of the pixels, standardised, with an intercept."""
    dataset = data.digits()
    X, y = dataset.content
    chosen = (y == 3) | (y == 8)
    X, y = X[chosen] - X[chosen].mean(0), (y[chosen] == 8).astype(float)
    U, _, _ = np.linalg.svd(X, full_matrices=False)
    features = jnp.asarray(np.concatenate([U[:, :components] * np.sqrt(len(y)), np.ones((len(y), 1))], 1))
    labels = jnp.asarray(y)
    # a prior of one standard deviation keeps the fit finite: the classes can be separated
    log_prob = lambda q, example: _logistic(q, *example) - q @ q / (2 * len(y))
    loss = lambda q: -jnp.mean(jax.vmap(log_prob, (None, 0))(q, (features, labels)))

    @jax.jit
    def mass(q):
        F = fisher.fisher_information(lambda q, e: _logistic(q, *e), q, (features, labels), damping=1e-3)
        return F.power(0.5).dense()

    start = np.zeros(features.shape[1])
    return Task(loss, mass(_minimum(loss, start)), jnp.asarray(start), dataset)


def _logistic(q, x, y):
    return -jax.nn.softplus(jnp.where(y > 0, -1.0, 1.0) * (x @ q))


def _minimum(loss, q, steps: int = 30):
    """Newton's method; the loss is strictly convex."""
    step = jax.jit(lambda q: q - jnp.linalg.solve(jax.hessian(loss)(q), jax.grad(loss)(q)))
    for _ in range(steps):
        q = step(q)
    return q


def _runge_kutta(rate, state, steps: int, h: float):
    """The classical fourth-order rule; it commutes with the linear change of variables p = M v, so both runs agree."""

    def move(state, k):
        t = k * h
        push = lambda a, d: jax.tree.map(lambda x, dx: x + a * dx, state, d)
        k1 = rate(t, state)
        k2 = rate(t + h / 2, push(h / 2, k1))
        k3 = rate(t + h / 2, push(h / 2, k2))
        k4 = rate(t + h, push(h, k3))
        mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        after = push(h, mean)
        return after, after

    _, later = jax.lax.scan(move, state, jnp.arange(steps) * 1.0)
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), state, later)


class Flows(NamedTuple):
    """Trajectories (steps + 1, P): positions from L, positions and momenta from H, free and damped, and the control."""

    times: np.ndarray
    lagrange: jax.Array
    hamilton: jax.Array
    damped_lagrange: jax.Array
    damped_hamilton: jax.Array
    flipped: jax.Array
    losses: np.ndarray
    damped_losses: np.ndarray


def _flows(L, H, task: Task, steps: int, h: float) -> Flows:
    def by_lagrange(L):
        a = variation.acceleration(L)
        follow = jax.jit(lambda q, v: _runge_kutta(lambda t, s: (s[1], a(t, *s)), (q, v), steps, h))
        return follow(task.start, 0 * task.start)[0]

    def by_hamilton(H):
        flow = variation.hamilton_equations(H)
        follow = jax.jit(lambda q, p: _runge_kutta(lambda t, s: flow(t, *s), (q, p), steps, h))
        return follow(task.start, 0 * task.start)[0]

    damped = variation.damped(L, GAMMA)
    q, damped_q = by_lagrange(L), by_lagrange(damped)
    flipped = variation.hamiltonian(fisher.particle_lagrangian(lambda q: -task.loss(q), task.mass))
    loss = jax.jit(jax.vmap(task.loss))
    return Flows(
        np.arange(steps + 1) * h,
        q,
        by_hamilton(H),
        damped_q,
        by_hamilton(variation.hamiltonian(damped)),
        by_hamilton(flipped),
        np.asarray(loss(q)),
        np.asarray(loss(damped_q)),
    )


def _transforms(task: Task, L, H):
    rng = np.random.default_rng(0)
    q, p = (jnp.asarray(rng.normal(size=(16, task.start.size))) for _ in range(2))
    at_all = lambda f: np.asarray(jax.jit(jax.vmap(f, (None, 0, 0)))(0.0, q, p))
    values, again, once = at_all(H), at_all(variation.lagrangian(H)), at_all(L)
    potential = np.asarray(jax.jit(jax.vmap(task.loss))(q))
    kinetic = lambda M: np.einsum("np,np->n", p, np.linalg.solve(M, np.asarray(p).T).T) / 2 + potential
    relative = lambda x, y: float(np.max(np.abs(x - y)) / np.max(np.abs(y)))
    condition = float(np.linalg.cond(task.mass))
    return (
        Claim(
            "eq. 21",
            "H = p'v - L at the v that solves dL/dv = p is p'M^-1p/2 + V(q), for a real log-likelihood.",
            relative(values, kinetic(np.asarray(task.mass))),
            64 * condition * EPS,
            f"64 eps(float64) x condition number {condition:.0f} of M",
            "the mass left out (M = I)",
            relative(values, kinetic(np.eye(task.start.size))),
        ),
        Claim(
            "eq. 4, 21",
            "The Legendre transform is an involution: transforming H again gives L back.",
            relative(again, once),
            64 * condition * EPS,
            f"64 eps(float64) x condition number {condition:.0f} of M",
            "H taken for L",
            relative(values, once),
        ),
    )


def _trajectories(task: Task, flows: Flows, h: float):
    size = float(np.max(np.abs(flows.lagrange)))
    gap = lambda a, b: float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) / size
    steps = len(flows.times)
    tolerance = 64 * steps * float(np.linalg.cond(task.mass)) * EPS
    source = f"64 eps(float64) x {steps} steps x condition number of M"
    return (
        Claim(
            "eq. 21, Insight 4",
            "L(q, v) and H(q, p) give the same trajectory of the parameters.",
            gap(flows.hamilton, flows.lagrange),
            tolerance,
            source,
            "the sign of the potential flipped (V = +l)",
            gap(flows.flipped, flows.lagrange),
        ),
        Claim(
            "eq. 21, Insight 4",
            f"The same with friction, e^(gamma t) L with gamma = {GAMMA}: momentum descent in continuous time.",
            gap(flows.damped_hamilton, flows.damped_lagrange),
            h**4,
            f"fourth-order integrator: h^4 with h = {h} (p = e^(gamma t) M v depends on time, so the two runs differ by it)",
            "friction in one of the two only",
            gap(flows.hamilton, flows.damped_lagrange),
        ),
    )


class Duel(NamedTuple):
    """A parameter flow (positions q, momenta p) and the control problem that must reproduce it."""

    q: jax.Array
    p: jax.Array
    answer: control.Trajectory
    unit_mass: control.Trajectory


def _control(task: Task, steps: int) -> Duel:
    """Symplectic Euler: p_{k+1} = p_k - h grad V(q_k), q_{k+1} = q_k + h M^-1 p_{k+1}; and eq. 9 with reward h (V - a'Ma/2).

    The time is half of a quarter period of the fastest oscillation at the start: past a quarter period the path that
    solves both is no longer a maximum of the reward.
    """
    inverse = np.linalg.inv(task.mass)
    stiffness = np.asarray(jax.jit(jax.hessian(task.loss))(task.start))
    fastest = np.sqrt(np.max(np.linalg.eigvals(inverse @ stiffness).real))
    h = float(np.pi / 4 / fastest / steps)

    def move(state, _):
        q, p = state
        p = p - h * jax.grad(task.loss)(q)
        q = q + h * inverse @ p
        return (q, p), (q, p)

    start = np.asarray(task.start), np.zeros(task.start.size)
    _, later = jax.jit(lambda start: jax.lax.scan(move, start, length=steps))(start)
    q, p = (np.concatenate([x[None], xs]) for x, xs in zip(start, later, strict=True))
    problem = control.Problem(
        lambda s, a, k, mass: h * (task.loss(s) - a @ mass @ a / 2),
        lambda s, a, k, mass: s + h * a,
        lambda s, mass: p[-1] @ s,
    )
    solved = jax.jit(lambda mass, q: control.solve(problem, q, jnp.zeros((steps, q.size)), mass))
    return Duel(
        jnp.asarray(q), jnp.asarray(p), solved(task.mass, task.start), solved(jnp.eye(task.start.size), task.start)
    )


def _costates(task: Task, duel: Duel):
    gap = lambda a, b: float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b)))
    steps = len(duel.q) - 1
    converged = EPS ** (2 / 3) * steps * float(jnp.linalg.cond(task.mass))
    source = f"tolerance of the solver eps^(2/3) x {steps} steps x condition number of M"
    return (
        Claim(
            "eq. 9, 14, 21, Insight 4",
            "Posed as optimal control (reward h (V - a'Ma/2), dynamics q + h a) the same task has the flow as its solution.",
            gap(duel.answer.states, duel.q),
            converged,
            source,
            "the control problem with M = I",
            gap(duel.unit_mass.states, duel.q),
        ),
        Claim(
            "eq. 14, 15, 21, Insight 4",
            "The costate of the control problem is the momentum of the parameter.",
            gap(duel.answer.costates, duel.p),
            converged,
            source,
            "the momentum of the next step",
            gap(duel.answer.costates[:-1], duel.p[1:]),
        ),
    )
