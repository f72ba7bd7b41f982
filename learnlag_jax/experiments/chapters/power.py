"""Size and power of the deceleration test, on simulated curves whose truth is known.

    v[w, t] = 3 - c log t + s_d (log t - mean) + 2 noise        s_d ~ N(0, 0.6) shared by the windows of document d

A curve is flat at c = 0. Size: how often it is called falling at the 5 % level. Power: how often a falling one is. The
control draws windows instead of documents. Comes from: nothing but seeds. Reference: MATH.md section 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments.claims import Claim, Table

LEVEL, DRAWS, LENGTH, EACH = 0.05, 200, 32, 8  # EACH: windows of a document
FALLS = (0.0, 0.05, 0.1, 0.2, 0.4)  # nats for each e-fold of t


@functools.partial(jax.jit, static_argnums=(1, 2))
def rejections(keys, documents: int, whole: bool):
    """Share of simulated studies that are called falling, for every fall; `whole` draws documents, else windows."""
    x = jnp.log(jnp.arange(1.0, LENGTH + 1, dtype=jnp.float32))
    ids = np.repeat(np.arange(documents), EACH)

    def study(key):
        drift, noise, draw = jax.random.split(key, 3)
        slope = 0.6 * jax.random.normal(drift, (documents, 1), jnp.float32)[ids]
        v = 3 + slope * (x - x.mean())[None] + 2 * jax.random.normal(noise, (len(ids), LENGTH), jnp.float32)
        groups = ids if whole else np.arange(len(ids))
        curve = information.in_context_curve(v, documents=groups, replicates=100, key=draw)
        return jnp.stack([information.deceleration_test(_tilted(curve, c * x)).p_value for c in FALLS]) < LEVEL

    return jnp.mean(jax.lax.map(study, keys, batch_size=50), axis=0)


def _tilted(curve: information.Curve, fall) -> information.Curve:
    """The curve of the same windows with `fall` taken from each: bootstrap means move by just that."""
    return curve._replace(mean=curve.mean - fall, replicates=curve.replicates - fall[None])


def chapter_part(seed: int) -> tuple[Claim, Table]:
    """The claim and the table of the report."""
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    few, many, apart = (np.asarray(rejections(keys, *how)) for how in ((10, True), (40, True), (40, False)))
    claim = Claim(
        "eq. 1, Insight 1",
        f"The test of deceleration can say no: of {DRAWS} simulated flat curves it calls {100 * many[0]:.1f} % falling at its "
        f"{100 * LEVEL:.0f} % level, though windows of one document share a trend.",
        abs(float(many[0]) - LEVEL),
        4 * float(np.sqrt(LEVEL * (1 - LEVEL) / DRAWS)),
        f"4 standard errors of a share of {DRAWS}",
        "windows drawn one by one, as if those of one document were independent",
        abs(float(apart[0]) - LEVEL),
    )
    rows = tuple((c, float(a), float(b), float(w)) for c, a, b, w in zip(FALLS, few, many, apart, strict=True))
    header = ("true fall per e-fold (nats)", "10 documents", "40 documents", "40, windows drawn (wrong)")
    caption = f"Share of {DRAWS} simulated studies called falling at the 5 % level: size in the first row, power below."
    return claim, Table(caption, header, rows)
