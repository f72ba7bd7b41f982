"""The motion of information: tokens in, position, velocity and acceleration out (eq. 1, figure 1).

`surprisal` and `chunked_surprisal` turn a model's predictions into velocities; `position`, `velocity`, `acceleration` and
`bits` are the kinematics; `in_context_curve` averages them over windows with bootstrap bands, `decay_fit` finds the
limit v_inf, and `deceleration_test` says whether the velocity falls, and can say no. Arrays in, arrays out: any model's
logits or log-probabilities will do.
"""

from learnlag_jax.information.curves import Curve as Curve
from learnlag_jax.information.curves import Decay as Decay
from learnlag_jax.information.curves import Deceleration as Deceleration
from learnlag_jax.information.curves import decay_fit as decay_fit
from learnlag_jax.information.curves import deceleration_test as deceleration_test
from learnlag_jax.information.curves import in_context_curve as in_context_curve
from learnlag_jax.information.kinematics import acceleration as acceleration
from learnlag_jax.information.kinematics import bits as bits
from learnlag_jax.information.kinematics import position as position
from learnlag_jax.information.kinematics import velocity as velocity
from learnlag_jax.information.log_probs import check_log_probs as check_log_probs
from learnlag_jax.information.log_probs import chunked_surprisal as chunked_surprisal
from learnlag_jax.information.log_probs import surprisal as surprisal

__all__ = [
    "Curve",
    "Decay",
    "Deceleration",
    "acceleration",
    "bits",
    "check_log_probs",
    "chunked_surprisal",
    "decay_fit",
    "deceleration_test",
    "in_context_curve",
    "position",
    "surprisal",
    "velocity",
]
