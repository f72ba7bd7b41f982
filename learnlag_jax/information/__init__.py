"""The motion of information: tokens in, position, velocity and acceleration out (eq. 1, figure 1).

    predictions  `surprisal`, `chunked_surprisal` (no tokens x words table); `start_stream`, `read_stream` (long texts)
    kinematics   `position`, `velocity`, `acceleration`; units: `bits`, `bits_per_byte`
    curves       `in_context_curve` with bootstrap bands, `log_bins`, `in_context_score`
    deceleration `deceleration_test` (can say no)
    the limit    `decay_fit` (v_inf), `compare_decays`, `effective_context`
    runs         `loss_motion`, the same motion over training steps; `learning_time`, the integral of d eps / eta

Arrays in, arrays out: any model's logits or log-probabilities will do (`check_log_probs` refuses what cannot be any).
"""

from learnlag_jax.information.curves import Curve as Curve
from learnlag_jax.information.curves import Score as Score
from learnlag_jax.information.curves import in_context_curve as in_context_curve
from learnlag_jax.information.curves import in_context_score as in_context_score
from learnlag_jax.information.curves import log_bins as log_bins
from learnlag_jax.information.decay import Comparison as Comparison
from learnlag_jax.information.decay import Context as Context
from learnlag_jax.information.decay import Decay as Decay
from learnlag_jax.information.decay import compare_decays as compare_decays
from learnlag_jax.information.decay import decay_fit as decay_fit
from learnlag_jax.information.decay import effective_context as effective_context
from learnlag_jax.information.deceleration import Deceleration as Deceleration
from learnlag_jax.information.deceleration import deceleration_test as deceleration_test
from learnlag_jax.information.kinematics import acceleration as acceleration
from learnlag_jax.information.kinematics import bits as bits
from learnlag_jax.information.kinematics import bits_per_byte as bits_per_byte
from learnlag_jax.information.kinematics import position as position
from learnlag_jax.information.kinematics import velocity as velocity
from learnlag_jax.information.log_probs import check_log_probs as check_log_probs
from learnlag_jax.information.log_probs import chunked_surprisal as chunked_surprisal
from learnlag_jax.information.log_probs import surprisal as surprisal
from learnlag_jax.information.runs import LearningTime as LearningTime
from learnlag_jax.information.runs import LossMotion as LossMotion
from learnlag_jax.information.runs import learning_time as learning_time
from learnlag_jax.information.runs import loss_motion as loss_motion
from learnlag_jax.information.stream import Stream as Stream
from learnlag_jax.information.stream import read_stream as read_stream
from learnlag_jax.information.stream import start_stream as start_stream

__all__ = [
    "Comparison",
    "Context",
    "Curve",
    "Decay",
    "Deceleration",
    "LearningTime",
    "LossMotion",
    "Score",
    "Stream",
    "acceleration",
    "bits",
    "bits_per_byte",
    "check_log_probs",
    "chunked_surprisal",
    "compare_decays",
    "decay_fit",
    "deceleration_test",
    "effective_context",
    "in_context_curve",
    "in_context_score",
    "learning_time",
    "log_bins",
    "loss_motion",
    "position",
    "read_stream",
    "start_stream",
    "surprisal",
    "velocity",
]
