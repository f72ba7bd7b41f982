"""The fisher room: a log-likelihood in; its Fisher information, field residual and optimiser out.

scores, categorical_outcomes     s_i = grad log p(x_i); every label a classifier may emit
fisher_information               F as an operator: exact, sampled, empirical or batch x full, diagonal, kronecker, matrix_free
stationarity                     the field Euler-Lagrange residual at a fit, White's test, Takeuchi's criterion
bootstrap, probed_stationarity   a p-value for small samples; the residual without a matrix, for many parameters
learning_lagrangian              eq. 26: the density of the loss field
particle_lagrangian              v' M v / 2 - V(q)
descent_lagrangian               the discrete Lagrangian whose stationary paths are momentum descent in a metric
scale_by_fisher, fisher_descent  the optax transformation theta' = F^a grad l, and the ready optimiser
preset                           Adam, RMSprop, Shampoo, SOAP, Muon and the natural gradient as members of the family
record, audit                    the stationarity residual of a recorded run of any optax optimiser

Import direction: hall (`variation`), `vocabulary`, `trees`, `checks`, jax, numpy, optax. Reference: MATH.md 6, 7.
"""

from learnlag_jax.fisher.audit import Audit as Audit
from learnlag_jax.fisher.audit import Run as Run
from learnlag_jax.fisher.audit import audit as audit
from learnlag_jax.fisher.audit import record as record
from learnlag_jax.fisher.bootstrap import Bootstrap as Bootstrap
from learnlag_jax.fisher.bootstrap import bootstrap as bootstrap
from learnlag_jax.fisher.descent import fisher_descent as fisher_descent
from learnlag_jax.fisher.descent import preset as preset
from learnlag_jax.fisher.information import fisher_information as fisher_information
from learnlag_jax.fisher.lagrangian import descent_lagrangian as descent_lagrangian
from learnlag_jax.fisher.lagrangian import learning_lagrangian as learning_lagrangian
from learnlag_jax.fisher.lagrangian import particle_lagrangian as particle_lagrangian
from learnlag_jax.fisher.precondition import scale_by_fisher as scale_by_fisher
from learnlag_jax.fisher.probes import ProbedStationarity as ProbedStationarity
from learnlag_jax.fisher.probes import probed_stationarity as probed_stationarity
from learnlag_jax.fisher.scores import categorical_outcomes as categorical_outcomes
from learnlag_jax.fisher.scores import scores as scores
from learnlag_jax.fisher.state import Bucket as Bucket
from learnlag_jax.fisher.state import Diagnostics as Diagnostics
from learnlag_jax.fisher.state import FisherOptions as FisherOptions
from learnlag_jax.fisher.state import FisherState as FisherState
from learnlag_jax.fisher.stationarity import Stationarity as Stationarity
from learnlag_jax.fisher.stationarity import stationarity as stationarity

__all__ = [
    "Audit",
    "Bootstrap",
    "Bucket",
    "Diagnostics",
    "FisherOptions",
    "FisherState",
    "ProbedStationarity",
    "Run",
    "Stationarity",
    "audit",
    "bootstrap",
    "categorical_outcomes",
    "descent_lagrangian",
    "fisher_descent",
    "fisher_information",
    "learning_lagrangian",
    "particle_lagrangian",
    "preset",
    "probed_stationarity",
    "record",
    "scale_by_fisher",
    "scores",
    "stationarity",
]
