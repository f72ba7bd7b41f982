"""Problems and processes with known answers, shared by the control tests."""

import jax.numpy as jnp
import numpy as np

from learnlag_jax.control import Problem, mdp_dense, mdp_sparse, minimise


def scalar_regulator() -> Problem:
    """s' = s + a, reward -s^2 - a^2, terminal -s^2: the stationary cost-to-go is (golden ratio) s^2."""
    return Problem(lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a, lambda s, theta: -(s**2))


def pendulum(dt: float = 0.1) -> Problem:
    """Swing-up: angle q from hanging (rad), rate w (rad/s), torque a; theta = {"g": gravity / length}."""

    def dynamics(s, a, k, theta):
        w = s["w"] + dt * (-jnp.sin(s["q"]) * theta["g"] - 0.1 * s["w"] + a)
        return {"q": s["q"] + dt * w, "w": w}

    def cost(s, a, k, theta):
        return dt * (0.05 * a**2 + 0.1 * (1 + jnp.cos(s["q"])))

    return minimise(cost, dynamics, lambda s, theta: 50 * (1 + jnp.cos(s["q"])) + 5 * s["w"] ** 2)


def pendulum_start(dtype, n: int = 40):
    s0 = {"q": jnp.zeros((), dtype), "w": jnp.zeros((), dtype)}
    actions0 = jnp.asarray(0.1 * np.sin(0.6 * np.arange(n)), dtype)
    return s0, actions0, {"g": jnp.asarray(9.81, dtype)}


def nonlinear() -> Problem:
    """A time-varying problem over pytrees, smooth and without symmetry: for identities that hold on any path."""

    def dynamics(s, a, k, theta):
        drift = jnp.sin(s["x"]) + 0.1 * jnp.asarray(k, s["x"].dtype) * s["y"] + theta * a
        return {"x": s["x"] + 0.3 * drift, "y": 0.9 * s["y"] + 0.2 * jnp.cos(jnp.sum(s["x"])) + 0.1 * jnp.sum(a)}

    def reward(s, a, k, theta):
        return -jnp.sum(s["x"] ** 2) - 0.5 * jnp.sum(jnp.exp(a)) + s["y"] * jnp.sum(a) * 0.2 - theta * s["y"] ** 2

    return Problem(reward, dynamics, lambda s, theta: jnp.sum(jnp.sin(s["x"])) - s["y"] ** 2)


def nonlinear_path(dtype, n: int = 5, seed: int = 0):
    """Random states, actions and costates, not a solution of anything; s0 differs from states[0]."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    states = {"x": draw(n + 1, 2), "y": draw(n + 1)}
    costates = {"x": draw(n + 1, 2), "y": draw(n + 1)}
    return {"x": draw(2), "y": draw()}, states, draw(n, 2), costates, jnp.asarray(0.7, dtype)


def random_lq(dtype, n: int = 6, d: int = 3, m: int = 2, seed: int = 0) -> dict:
    """A time-varying affine problem with cross terms, positive definite, with a growing uncontrolled mode."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, d, d)) / np.sqrt(d)
    B = rng.normal(size=(n, d, m))
    A[:, -1, :], B[:, -1, :] = 0.0, 0.0
    A[:, -1, -1] = 1.1
    root = rng.normal(size=(n, d + m, d + m)) / np.sqrt(d + m)
    W = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(d + m)
    Qn = rng.normal(size=(d, d))
    parts = {
        "A": A,
        "B": B,
        "Q": W[:, :d, :d],
        "R": W[:, d:, d:],
        "M": W[:, :d, d:],
        "q": rng.normal(size=(n, d)),
        "r": rng.normal(size=(n, m)),
        "c": rng.normal(size=(n, d)),
        "Qn": Qn @ Qn.T,
        "qn": rng.normal(size=d),
    }
    return {name: jnp.asarray(x, dtype) for name, x in parts.items()}


def lq_problem(lq: dict) -> Problem:
    """The same problem written as functions, its arrays in theta."""

    def cost(s, a, k, theta):
        now = {name: x[k] for name, x in theta.items() if name not in ("Qn", "qn")}
        quadratic = s @ now["Q"] @ s / 2 + a @ now["R"] @ a / 2 + s @ now["M"] @ a
        return quadratic + now["q"] @ s + now["r"] @ a

    def dynamics(s, a, k, theta):
        return theta["A"][k] @ s + theta["B"][k] @ a + theta["c"][k]

    return minimise(cost, dynamics, lambda s, theta: s @ theta["Qn"] @ s / 2 + theta["qn"] @ s)


def garnet_arrays(S: int, A: int, K: int, seed: int = 0, mass: float = 1.0):
    """Random successors with random probabilities; rows sum to `mass` on average, each between mass and 1."""
    rng = np.random.default_rng(seed)
    successor = rng.integers(0, S, size=(S, A, K))
    probability = rng.dirichlet(np.ones(K), size=(S, A))
    if mass < 1:
        probability = probability * rng.uniform(mass, 1.0, size=(S, A, 1))
    return successor, probability, rng.normal(size=(S, A))


def garnet(S: int, A: int, K: int, discount: float, dtype, seed: int = 0, mass: float = 1.0):
    successor, probability, R = garnet_arrays(S, A, K, seed, mass)
    as_type = lambda x: jnp.asarray(x, dtype)
    return mdp_sparse(jnp.asarray(successor), as_type(probability), as_type(R), discount, ends=mass < 1)


def dense_arrays(S: int, A: int, K: int, seed: int = 0, mass: float = 1.0):
    """The garnet as a full P[s, a, s'] and R[s, a] in NumPy."""
    successor, probability, R = garnet_arrays(S, A, K, seed, mass)
    P = np.zeros((S, A, S))
    s, a, _ = np.indices(successor.shape)
    np.add.at(P, (s, a, successor), probability)
    return P, R


def forest(S: int, discount: float, dtype, fire: float = 0.1):
    """Forest management: wait (age by one, or burn with chance `fire`) or cut; the oldest forest pays 4 or 2."""
    P, R = np.zeros((S, 2, S)), np.zeros((S, 2))
    for s in range(S):
        P[s, 0, 0] += fire
        P[s, 0, min(s + 1, S - 1)] += 1 - fire
        P[s, 1, 0] = 1.0
    R[S - 1, 0], R[1:, 1], R[S - 1, 1] = 4.0, 1.0, 2.0
    return mdp_dense(jnp.asarray(P, dtype), jnp.asarray(R, dtype), discount)


def exact_values(P: np.ndarray, R: np.ndarray, discount: float) -> np.ndarray:
    """V* by policy iteration with direct solves in NumPy float64: the oracle."""
    S = len(R)
    policy = np.zeros(S, int)
    while True:
        rows = np.arange(S)
        v = np.linalg.solve(np.eye(S) - discount * P[rows, policy], R[rows, policy])
        better = R + discount * P @ v
        if np.all(better.max(1) <= v + 1e-12 * (1 + np.abs(v))):
            return v
        policy = better.argmax(1)
