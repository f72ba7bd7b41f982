"""Every public name of the room, as a function of arrays that must lower everywhere, or why it cannot."""

import jax
import jax.numpy as jnp

from learnlag_jax import information

V = jnp.asarray(2.0 + jnp.cos(jnp.arange(24.0)).reshape(4, 6), jnp.float32)
TOKENS = jnp.arange(6, dtype=jnp.int32)
LOGITS = jnp.zeros((6, 8), jnp.float32)


def _curve(v):
    return information.in_context_curve(v, key=jax.random.key(0), replicates=40)


def _step(state, token):
    return state, LOGITS[0].at[token].add(1.0)


CASES = {
    "acceleration": (information.acceleration, (V,)),
    "bits": (information.bits, (V,)),
    "bits_per_byte": (information.bits_per_byte, (V, jnp.ones_like(V))),
    "chunked_surprisal": (
        lambda h, E, x: information.chunked_surprisal(h, E, x, chunk=3),
        (jnp.zeros((6, 2), jnp.float32), jnp.ones((8, 2), jnp.float32), TOKENS),
    ),
    "compare_decays": (lambda v: information.compare_decays(_curve(v)), (V,)),
    "decay_fit": (lambda v: information.decay_fit(_curve(v)), (V,)),
    "deceleration_test": (lambda v: information.deceleration_test(_curve(v)), (V,)),
    "effective_context": (lambda v: information.effective_context(information.decay_fit(_curve(v)), 0.01), (V,)),
    "in_context_curve": (_curve, (V,)),
    "in_context_score": (lambda v: information.in_context_score(_curve(v), early=1, late=6), (V,)),
    "learning_time": (
        lambda x: information.learning_time(information.loss_motion(x, bandwidth=2.0), 1.5),
        (V.reshape(-1),),
    ),
    "log_bins": (lambda v: information.log_bins(_curve(v)), (V,)),
    "loss_motion": (lambda x: information.loss_motion(x, bandwidth=2.0), (V.reshape(-1),)),
    "position": (information.position, (V,)),
    "read_stream": (lambda x: information.read_stream(_step, information.start_stream((), LOGITS[0]), x), (TOKENS,)),
    "start_stream": (lambda x: information.start_stream((), x), (LOGITS[0],)),
    "surprisal": (information.surprisal, (LOGITS, TOKENS)),
    "velocity": (information.velocity, (V,)),
}

NOT_JITTABLE = {
    "Comparison": "a NamedTuple",
    "Context": "a NamedTuple",
    "Curve": "a NamedTuple",
    "Decay": "a NamedTuple",
    "Deceleration": "a NamedTuple",
    "LearningTime": "a NamedTuple",
    "LossMotion": "a NamedTuple",
    "Score": "a NamedTuple",
    "Stream": "a NamedTuple",
    "check_log_probs": "a gate for host values",
}
