"""The fermat room: least time. Observations in; the design that learns fastest, its certificate, and the time it took.

information_matrix, criterion                     M = sum w f f', and its scalars A, D, E, G, T, I, c, phi
optimal_weights, equivalence_gap                  approximate designs on a pool, certified over all of it
exact_design                                      n whole observations by exchange, with or without replacement, augmenting
tight_frame, frame_with_spectrum, complete_frame, v_optimal_frame, greedy_ratio    the sphere in closed form
fisher_information                                rows of nonlinear and generalised linear models, by autodiff
ray                                               least optical length through a medium
least_time_path                                   the order: greedy, block, deadline, anytime
time_to_threshold, time_by_rate, soft_learning_time            both integrals of eq. 5; first and last crossing, occupation, censoring
kaplan_meier, learning_time_summary, learning_time_ratio, performance_profile, mlperf_time    over seeds and tasks

Import direction: hall (`variation`), `vocabulary`, `trees`, `checks`, jax, numpy. Reference: MATH.md 3, 4.
"""

from learnlag_jax.fermat.active_list import Design as Design
from learnlag_jax.fermat.approximate import optimal_weights as optimal_weights
from learnlag_jax.fermat.criteria import Criterion as Criterion
from learnlag_jax.fermat.criteria import criterion as criterion
from learnlag_jax.fermat.criteria import information_matrix as information_matrix
from learnlag_jax.fermat.equivalence import equivalence_gap as equivalence_gap
from learnlag_jax.fermat.exact import ExactDesign as ExactDesign
from learnlag_jax.fermat.exact import exact_design as exact_design
from learnlag_jax.fermat.frames import complete_frame as complete_frame
from learnlag_jax.fermat.frames import frame_with_spectrum as frame_with_spectrum
from learnlag_jax.fermat.frames import greedy_ratio as greedy_ratio
from learnlag_jax.fermat.frames import tight_frame as tight_frame
from learnlag_jax.fermat.frames import v_optimal_frame as v_optimal_frame
from learnlag_jax.fermat.learning_time import LearningTime as LearningTime
from learnlag_jax.fermat.learning_time import soft_learning_time as soft_learning_time
from learnlag_jax.fermat.learning_time import time_by_rate as time_by_rate
from learnlag_jax.fermat.learning_time import time_to_threshold as time_to_threshold
from learnlag_jax.fermat.models import fisher_information as fisher_information
from learnlag_jax.fermat.planning import Path as Path
from learnlag_jax.fermat.planning import least_time_path as least_time_path
from learnlag_jax.fermat.rays import Ray as Ray
from learnlag_jax.fermat.rays import ray as ray
from learnlag_jax.fermat.summaries import Profile as Profile
from learnlag_jax.fermat.summaries import Ratio as Ratio
from learnlag_jax.fermat.summaries import Summary as Summary
from learnlag_jax.fermat.summaries import Survival as Survival
from learnlag_jax.fermat.summaries import kaplan_meier as kaplan_meier
from learnlag_jax.fermat.summaries import learning_time_ratio as learning_time_ratio
from learnlag_jax.fermat.summaries import learning_time_summary as learning_time_summary
from learnlag_jax.fermat.summaries import mlperf_time as mlperf_time
from learnlag_jax.fermat.summaries import performance_profile as performance_profile

__all__ = [
    "Criterion",
    "Design",
    "ExactDesign",
    "LearningTime",
    "Path",
    "Profile",
    "Ratio",
    "Ray",
    "Summary",
    "Survival",
    "complete_frame",
    "criterion",
    "equivalence_gap",
    "exact_design",
    "fisher_information",
    "frame_with_spectrum",
    "greedy_ratio",
    "information_matrix",
    "kaplan_meier",
    "learning_time_ratio",
    "learning_time_summary",
    "least_time_path",
    "mlperf_time",
    "optimal_weights",
    "performance_profile",
    "ray",
    "soft_learning_time",
    "tight_frame",
    "time_by_rate",
    "time_to_threshold",
    "v_optimal_frame",
]
