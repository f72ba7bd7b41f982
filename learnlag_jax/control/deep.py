"""Q-learning with a parametric value function: deep Q-networks, as one compiled scan over environment steps.

    y = r + discount (1 - ended) Q_target(s', argmax_b Q(s', b)),   loss = mean Huber(Q(s, a) - y)     (double DQN)

The environment and the network are pure functions given by the caller: any pytree of parameters, any optax optimiser. An
episode cut off by a time limit is not an end: its last state still bootstraps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from learnlag_jax import checks, trees
from learnlag_jax.control.problem import at
from learnlag_jax.meaning import by_meaning
from learnlag_jax.vocabulary import Array, PyTree, Status, status_where


class Environment(NamedTuple):
    """An episodic environment as two pure functions.

    Attributes:
        reset: `reset(key)` -> state, any pytree.
        step: `step(key, state, action)` -> (next state, reward, ended, cut): `ended` where the future is worth nothing,
            `cut` where only a time limit stopped the episode.
        observe: `observe(state)` -> real array, what the network sees.
        actions: number of actions.

    Example:
        >>> from learnlag_jax.control import Environment
        >>> Environment._fields
        ('reset', 'step', 'observe', 'actions')
    """

    reset: Callable
    step: Callable
    observe: Callable
    actions: int


class Learner(NamedTuple):
    """A trained network and its record.

    Attributes:
        value: parameters of the network.
        residual: mean |Bellman error| of the last update's batch (scalar); the temporal difference, not a proof.
        status: `Status`; nonfinite_derivative if parameters are NaN or infinite.
        steps: environment steps.
        returns: [steps], undiscounted return of the episode that ended at each step, NaN where none did.

    Example:
        >>> from learnlag_jax.control import Learner
        >>> Learner._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: PyTree
    residual: Array
    status: Array
    steps: Array
    returns: Array


class _Replay(NamedTuple):
    observation: Array
    action: Array
    reward: Array
    after: Array
    ended: Array


class _State(NamedTuple):
    params: PyTree
    target: PyTree
    optimiser: Any
    replay: _Replay
    state: PyTree
    total: Array
    error: Array


def dqn(
    key: Array,
    environment: Environment,
    network: Callable,
    params: PyTree,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    discount: float = 0.99,
    capacity: int = 10_000,
    batch: int = 64,
    warmup: int = 500,
    every: int = 10,
    sync: int = 500,
    blend: float = 1.0,
    explore: tuple[float, float] = (1.0, 0.05),
    explore_steps: int | None = None,
) -> Learner:
    """Deep Q-learning: double Q targets, uniform replay, a slowly blended target network.

        Q(s, a) -> r + discount E max_b Q(s', b)     (eq. 19, from samples)

    Args:
        key: typed PRNG key.
        environment: an `Environment`.
        network: `network(params, observation)` -> [actions] values of one observation.
        params: its parameters, any pytree of real arrays.
        optimiser: an optax transformation.
        steps: environment steps; capacity, batch, warmup: of the replay, in transitions.
        discount: in [0, 1].
        every: environment steps between updates; sync: between moves of the target network, by the weight `blend`.
        explore: chance of a random action at the start and at the end; falls linearly over explore_steps (half of `steps`).

    Returns:
        A `Learner`.

    Raises:
        InputError: sizes that are not whole numbers >= 1, steps that end before the first update, a discount, blend or
            chance outside [0, 1], or a network that does not return one value for each action.
        Status nonfinite_derivative.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from learnlag_jax.control import Environment, dqn
        >>> one = jnp.float32(1)
        >>> coin = Environment(
        ...     lambda key: one, lambda key, s, a: (s, a.astype(s.dtype), jnp.array(True), jnp.array(False)), lambda s: s[None], 2)
        >>> network = lambda w, x: w * x[0]
        >>> got = dqn(jax.random.key(0), coin, network, jnp.zeros(2, jnp.float32), optax.sgd(0.2), steps=900, warmup=50, every=1)
        >>> [round(float(q), 1) for q in got.value]
        [0.0, 1.0]

    Reference: MATH.md section 5; Mnih et al. (2013); van Hasselt, Guez and Silver (2016).
    """
    _check_sizes(steps, capacity, batch, warmup, every, sync, explore_steps)
    chances = {"discount": discount, "blend": blend, "explore[0]": explore[0], "explore[1]": explore[1]}
    for name, chance in chances.items():
        inside = checks.is_traced(chance) or 0 <= chance <= 1
        checks.require(inside, name, chance, "a number from 0 to 1", "choose it in [0, 1]")
    checks.floating(params, "params")
    seen = jax.eval_shape(lambda key: environment.observe(environment.reset(key)), key)
    values = jax.eval_shape(network, params, seen)
    wanted = (environment.actions,)
    checks.require(values.shape == wanted, "network", values.shape, f"shape {wanted}", "one value for each action")
    first = -(-warmup // every) * every
    got = f"the first update at step {first} of {steps}"
    checks.require(
        first < steps, "warmup", got, f"one before step {steps}", "take more steps, or lower warmup or every"
    )
    decay = explore_steps or max(1, steps // 2)
    sizes = _Sizes(
        steps, capacity, batch, warmup, every, sync, decay, *_meant(environment, network, optimiser, key, params)
    )
    numbers = [jnp.asarray(x, values.dtype) for x in (discount, blend, *explore)]
    return _train(sizes, key, params, *numbers)


def _check_sizes(steps, capacity, batch, warmup, every, sync, explore_steps) -> None:
    """Host gate: whole numbers."""
    sizes = {"steps": steps, "capacity": capacity, "batch": batch, "every": every, "sync": sync}
    if explore_steps is not None:
        sizes["explore_steps"] = explore_steps
    for name, number in sizes.items():
        checks.whole(number, name, 1, "raise it")
    checks.whole(warmup, "warmup", 0, "raise it")


def _meant(environment: Environment, network: Callable, optimiser, key: Array, params: PyTree) -> tuple:
    """All functions as static arguments that change with every number they read."""
    kept = jax.eval_shape(
        lambda key, params: (key, params, environment.reset(key), optimiser.init(params)), key, params
    )
    key, params, state, memory = kept
    seen, action = jax.eval_shape(environment.observe, state), jnp.int32(0)
    environment = environment._replace(
        reset=by_meaning(environment.reset, key),
        step=by_meaning(environment.step, key, state, action),
        observe=by_meaning(environment.observe, state),
    )
    init: Any = by_meaning(optimiser.init, params)
    update: Any = by_meaning(optimiser.update, params, memory, params)
    return environment, by_meaning(network, params, seen), optax.GradientTransformation(init, update)


class _Sizes(NamedTuple):
    steps: int
    capacity: int
    batch: int
    warmup: int
    every: int
    sync: int
    decay: int
    environment: Environment
    network: Callable
    optimiser: optax.GradientTransformation


@functools.partial(jax.jit, static_argnums=0)
def _train(sizes: _Sizes, key, params, discount, blend, first, last) -> Learner:
    env, dtype = sizes.environment, discount.dtype
    key, begin = jax.random.split(key)
    state = env.reset(begin)
    seen = env.observe(state)
    room = lambda x, kind: jnp.zeros((sizes.capacity, *jnp.shape(x)), kind)
    replay = _Replay(room(seen, seen.dtype), room(0, jnp.int32), room(0, dtype), room(seen, seen.dtype), room(0, dtype))
    zero = jnp.zeros((), dtype)
    start = _State(params, params, sizes.optimiser.init(params), replay, state, zero, zero)

    def step(carry, count):
        st, key = carry
        key, *keys = jax.random.split(key, 7)
        chance = first + (last - first) * jnp.minimum(count.astype(dtype) / sizes.decay, 1)
        now = env.observe(st.state)
        greedy = jnp.argmax(sizes.network(st.params, now)).astype(jnp.int32)
        random = jax.random.randint(keys[0], (), 0, env.actions, jnp.int32)
        action = jnp.where(jax.random.uniform(keys[1], (), dtype) < chance, random, greedy)
        after, reward, ended, cut = env.step(keys[2], st.state, action)
        reward = jnp.asarray(reward, dtype)
        entry = _Replay(now, action, reward, env.observe(after), jnp.asarray(ended, dtype))
        place = count % sizes.capacity
        replay = jax.tree.map(lambda all, one: all.at[place].set(one), st.replay, entry)
        over, total = ended | cut, st.total + reward
        fresh = env.reset(keys[3])
        state = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, after)
        st = st._replace(replay=replay, state=state, total=jnp.where(over, zero, total))
        index = jax.random.randint(keys[4], (sizes.batch,), 0, jnp.minimum(count + 1, sizes.capacity))
        learn = functools.partial(_update, sizes, discount)
        due = (count >= sizes.warmup) & (count % sizes.every == 0)
        st = lax.cond(due, lambda st: learn(st, at(st.replay, index)), lambda st: st, st)
        weight = jnp.where(count % sizes.sync == 0, blend, 0)
        follow = lambda old, new: old + jnp.asarray(weight, old.dtype) * (new - old)
        st = st._replace(target=jax.tree.map(follow, st.target, st.params))
        return (st, key), jnp.where(over, total, jnp.nan)

    (end, _), returns = lax.scan(step, (start, key), jnp.arange(sizes.steps, dtype=jnp.int32))
    status = status_where(~trees.all_finite(end.params), Status.nonfinite_derivative)
    return Learner(end.params, end.error, status, jnp.int32(sizes.steps), returns)


def _update(sizes: _Sizes, discount, st: _State, sample: _Replay) -> _State:
    """One gradient step on the Huber loss of the double-Q temporal difference."""
    rows = jnp.arange(sizes.batch)
    Q = jax.vmap(sizes.network, (None, 0))
    chosen = jnp.argmax(Q(st.params, sample.after), 1)
    future = Q(st.target, sample.after)[rows, chosen]
    y = sample.reward + discount * (1 - sample.ended) * future

    def loss(params):
        error = Q(params, sample.observation)[rows, sample.action] - y
        return jnp.mean(optax.losses.huber_loss(error)), jnp.mean(jnp.abs(error))

    gradient, error = jax.grad(loss, has_aux=True)(st.params)
    updates, optimiser = sizes.optimiser.update(gradient, st.optimiser, st.params)
    params: Any = optax.apply_updates(st.params, updates)
    return st._replace(params=params, optimiser=optimiser, error=error)
