"""The ready optimiser, and one name for each known member of the family.

    fisher_descent(lr)          eigen on the shorter side, a = -1/2, short memory, Nesterov: the default
    preset("adam")              diagonal, a = -1/2                    Kingma and Ba 2014
    preset("rmsprop")           diagonal, a = -1/2, no momentum       Tieleman 2012
    preset("shampoo")           kronecker, a = -1/4                   Gupta et al. 2018 (-1/4 on each side, up to scale)
    preset("shampoo_squared")   kronecker, a = -1/2                   Morwani et al. 2024
    preset("soap")              eigen, a = -1/2, slow second moment   Vyas et al. 2024
    preset("muon")              one_sided polar of the momentum       Jordan et al. 2024
    preset("natural_gradient")  kronecker, a = -1                     Amari 1998, Martens and Grosse 2015

Comes from: `precondition`. Goes to: a training loop. Reference: MATH.md 7.
"""

import math
from typing import Any

import optax

from learnlag_jax import checks
from learnlag_jax.fisher import inputs
from learnlag_jax.fisher.precondition import scale_by_fisher
from learnlag_jax.fisher.state import FisherOptions
from learnlag_jax.fisher.structure import Rule

PRESETS: dict[str, dict[str, Any]] = {
    "adam": {"structure": "diagonal", "b1": 0.9, "b2": 0.999},
    "rmsprop": {"structure": "diagonal", "b1": 0.0, "b2": 0.9, "options": FisherOptions(bias_correction=False)},
    "shampoo": {
        "structure": "kronecker",
        "exponent": -0.25,
        "b1": 0.9,
        "b2": 0.99,
        "options": FisherOptions(refresh=10),
    },
    "shampoo_squared": {"structure": "kronecker", "b1": 0.9, "b2": 0.99, "options": FisherOptions(refresh=10)},
    "soap": {"structure": "eigen", "b1": 0.95, "b2": 0.95, "options": FisherOptions(refresh=10, aspect=None)},
    "muon": {"structure": "one_sided", "b1": 0.95, "b2": 0.95, "options": FisherOptions(nesterov=True)},
    "natural_gradient": {"structure": "kronecker", "exponent": -1.0, "b1": 0.9, "b2": 0.99, "eps": 0.1},
}


def preset(name: str) -> dict[str, Any]:
    """The arguments of `scale_by_fisher` that give a known method.

    Args:
        name: "adam" (Kingma and Ba 2014), "rmsprop" (Tieleman 2012), "shampoo" (Gupta et al. 2018; a = -1/4),
            "shampoo_squared" (Morwani et al. 2024; a = -1/2), "soap" (Vyas et al. 2024), "muon" (Jordan et al. 2024, with
            optax's Nesterov; steps are sqrt(max(m, n)) times the polar factor, so a rate is that much smaller) or
            "natural_gradient" (Amari 1998, Martens and Grosse 2015; a = -1, damping eps^2 = 0.01: give it
            `fisher="sampled"`).

    Returns:
        Keyword arguments, a fresh dict to change at will.

    Raises:
        InputError: an unknown name.

    Example:
        >>> from learnlag_jax.fisher import preset, scale_by_fisher
        >>> preset("shampoo")["exponent"]
        -0.25
        >>> optimiser = scale_by_fisher(**preset("adam"))

    Reference: MATH.md 7; docs/optimiser.md.
    """
    checks.require(name in PRESETS, "name", repr(name), "one of " + ", ".join(PRESETS), "choose one")
    return dict(PRESETS[name])


def fisher_descent(
    learning_rate: optax.ScalarOrSchedule,
    structure: str | Rule = "eigen",
    *,
    b1=0.9,
    b2=0.9,
    eps=1e-8,
    exponent=-0.5,
    weight_decay=1e-4,
    mask=None,
    fisher: str = "batch",
    options: FisherOptions = FisherOptions(refresh=1, nesterov=True),
) -> optax.GradientTransformationExtraArgs:
    """Fisher-preconditioned descent with decoupled weight decay: a drop-in for `optax.adamw(learning_rate)`.

    Args:
        learning_rate: a float, a scalar array or an optax schedule. Start at AdamW's best: over five tasks the best one is
            half to twice that, and at equal rates from 0.01 up the final loss is lower. Far below it AdamW is faster.
        structure, exponent, b1, b2, eps, fisher, options: as in `scale_by_fisher`; the defaults here come from the
            language-model benchmark: a short memory of F, a basis for the shorter side of long matrices alone,
            turned with every step, and Nesterov's look ahead (`FisherOptions(refresh=1, nesterov=True)`: say both again
            where you say a third). Where sides pass a few hundred and batches are small, a
            `refresh` of 5 or 10 saves time and loses some of the steps won.
        weight_decay: decoupled decay, multiplied by the learning rate, as in `optax.adamw`; a skipped step decays too.
        mask: which leaves decay, as in optax.

    Returns:
        An optax `GradientTransformationExtraArgs` whose updates are added to the parameters.

    Raises:
        InputError: as `scale_by_fisher`; a rate or decay that is no number.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from learnlag_jax.fisher import fisher_descent
        >>> optimiser, q = fisher_descent(0.1), jnp.array([1.0, -1.0])
        >>> state = optimiser.init(q)
        >>> for _ in range(3):
        ...     updates, state = optimiser.update(q, state, q)
        ...     q = optax.apply_updates(q, updates)
        >>> [round(float(x), 2) for x in q]
        [0.64, -0.64]

    Reference: MATH.md 7; docs/optimiser.md.
    """
    number = "a number or an optax schedule"
    if not callable(learning_rate):
        inputs.number(learning_rate, "learning_rate", -math.inf, math.inf, number, "AdamW's is a good start")
    if not callable(weight_decay):
        inputs.number(weight_decay, "weight_decay", 0, math.inf, f"{number}, at least 0", "0 is none")
    precondition = scale_by_fisher(structure, exponent=exponent, fisher=fisher, b1=b1, b2=b2, eps=eps, options=options)
    return optax.chain(
        precondition,
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
