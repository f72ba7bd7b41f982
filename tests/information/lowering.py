"""Every public name of the room, as a function of arrays that must lower everywhere, or why it cannot."""

import jax
import jax.numpy as jnp

from learnlag_jax import information

V = jnp.asarray(2.0 + jnp.cos(jnp.arange(24.0)).reshape(4, 6), jnp.float32)
TOKENS = jnp.arange(6, dtype=jnp.int32)
LOGITS = jnp.zeros((6, 8), jnp.float32)


def _curve(v):
    return information.in_context_curve(v, key=jax.random.key(0), replicates=8)


CASES = {
    "acceleration": (information.acceleration, (V,)),
    "bits": (information.bits, (V,)),
    "chunked_surprisal": (
        lambda h, E, x: information.chunked_surprisal(h, E, x, chunk=3),
        (jnp.zeros((6, 2), jnp.float32), jnp.ones((8, 2), jnp.float32), TOKENS),
    ),
    "decay_fit": (lambda v: information.decay_fit(_curve(v)), (V,)),
    "deceleration_test": (lambda v: information.deceleration_test(_curve(v)), (V,)),
    "in_context_curve": (_curve, (V,)),
    "position": (information.position, (V,)),
    "surprisal": (information.surprisal, (LOGITS, TOKENS)),
    "velocity": (information.velocity, (V,)),
}

NOT_JITTABLE = {
    "Curve": "a NamedTuple",
    "Decay": "a NamedTuple",
    "Deceleration": "a NamedTuple",
    "check_log_probs": "a gate for host values",
}
