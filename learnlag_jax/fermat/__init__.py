"""The fermat room: least time. Observations in; the design that learns fastest, its certificate, and the time it took.

information_matrix, criterion                     M = sum w f f', and its scalars A, D, E, G, T, I, c, phi; means over a prior
optimal_weights, equivalence_gap                  approximate designs on a pool, certified over all of it, differentiable
exact_design                                      n whole observations by exchange, with or without replacement, augmenting
continuous_design                                 n points of a box or the sphere, by gradient
tight_frame, frame_with_spectrum, complete_frame, v_optimal_frame, greedy_ratio    the sphere in closed form
fisher_information                                rows of nonlinear and generalised linear models, by autodiff, local or over a prior
ray, optical_length                               least optical length through a medium, and that of any path
least_time_path                                   the order: greedy, block, deadline, anytime
label_batch, active_learning, softmax_rows        which labels of a pool to buy, replanned as the model learns
timed_curve, read_curve                           error curves: on a stopwatch (T_compute), from CSV and JSON lines
time_to_threshold, time_by_rate, soft_learning_time            both integrals of eq. 5; first and last crossing, occupation, censoring
kaplan_meier, learning_time_summary, learning_time_ratio, performance_profile, mlperf_time    over seeds and tasks

Import direction: hall (`variation`), `vocabulary`, `trees`, `checks`, jax, numpy. Reference: MATH.md 3, 4.
"""

from learnlag_jax.fermat.active_set import Design as Design
from learnlag_jax.fermat.approximate import optimal_weights as optimal_weights
from learnlag_jax.fermat.continuous import ContinuousDesign as ContinuousDesign
from learnlag_jax.fermat.continuous import continuous_design as continuous_design
from learnlag_jax.fermat.criteria import Criterion as Criterion
from learnlag_jax.fermat.criteria import criterion as criterion
from learnlag_jax.fermat.criteria import information_matrix as information_matrix
from learnlag_jax.fermat.curve_files import Curve as Curve
from learnlag_jax.fermat.curve_files import read_curve as read_curve
from learnlag_jax.fermat.equivalence import equivalence_gap as equivalence_gap
from learnlag_jax.fermat.exact import ExactDesign as ExactDesign
from learnlag_jax.fermat.exact import exact_design as exact_design
from learnlag_jax.fermat.frames import complete_frame as complete_frame
from learnlag_jax.fermat.frames import frame_with_spectrum as frame_with_spectrum
from learnlag_jax.fermat.frames import greedy_ratio as greedy_ratio
from learnlag_jax.fermat.frames import tight_frame as tight_frame
from learnlag_jax.fermat.frames import v_optimal_frame as v_optimal_frame
from learnlag_jax.fermat.labels import LabelBatch as LabelBatch
from learnlag_jax.fermat.labels import LabelPath as LabelPath
from learnlag_jax.fermat.labels import active_learning as active_learning
from learnlag_jax.fermat.labels import label_batch as label_batch
from learnlag_jax.fermat.labels import softmax_rows as softmax_rows
from learnlag_jax.fermat.learning_time import LearningTime as LearningTime
from learnlag_jax.fermat.learning_time import soft_learning_time as soft_learning_time
from learnlag_jax.fermat.learning_time import time_by_rate as time_by_rate
from learnlag_jax.fermat.learning_time import time_to_threshold as time_to_threshold
from learnlag_jax.fermat.models import fisher_information as fisher_information
from learnlag_jax.fermat.planning import Path as Path
from learnlag_jax.fermat.planning import least_time_path as least_time_path
from learnlag_jax.fermat.profiles import Profile as Profile
from learnlag_jax.fermat.profiles import mlperf_time as mlperf_time
from learnlag_jax.fermat.profiles import performance_profile as performance_profile
from learnlag_jax.fermat.rays import Ray as Ray
from learnlag_jax.fermat.rays import optical_length as optical_length
from learnlag_jax.fermat.rays import ray as ray
from learnlag_jax.fermat.stopwatch import TimedCurve as TimedCurve
from learnlag_jax.fermat.stopwatch import timed_curve as timed_curve
from learnlag_jax.fermat.summaries import Ratio as Ratio
from learnlag_jax.fermat.summaries import Summary as Summary
from learnlag_jax.fermat.summaries import Survival as Survival
from learnlag_jax.fermat.summaries import kaplan_meier as kaplan_meier
from learnlag_jax.fermat.summaries import learning_time_ratio as learning_time_ratio
from learnlag_jax.fermat.summaries import learning_time_summary as learning_time_summary

__all__ = [
    "ContinuousDesign",
    "Criterion",
    "Curve",
    "Design",
    "ExactDesign",
    "LabelBatch",
    "LabelPath",
    "LearningTime",
    "Path",
    "Profile",
    "Ratio",
    "Ray",
    "Summary",
    "Survival",
    "TimedCurve",
    "active_learning",
    "complete_frame",
    "continuous_design",
    "criterion",
    "equivalence_gap",
    "exact_design",
    "fisher_information",
    "frame_with_spectrum",
    "greedy_ratio",
    "information_matrix",
    "kaplan_meier",
    "label_batch",
    "learning_time_ratio",
    "learning_time_summary",
    "least_time_path",
    "mlperf_time",
    "optical_length",
    "optimal_weights",
    "performance_profile",
    "ray",
    "read_curve",
    "soft_learning_time",
    "softmax_rows",
    "tight_frame",
    "time_by_rate",
    "time_to_threshold",
    "timed_curve",
    "v_optimal_frame",
]
