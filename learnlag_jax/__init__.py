"""learnlag_jax: write one scalar function, derive its equations, solve them, prove the answer."""

from learnlag_jax import checks as checks
from learnlag_jax import trees as trees
from learnlag_jax.checks import CheckpointError as CheckpointError
from learnlag_jax.checks import ConfigError as ConfigError
from learnlag_jax.checks import DTypeError as DTypeError
from learnlag_jax.checks import InputError as InputError
from learnlag_jax.checks import RunDirError as RunDirError
from learnlag_jax.checks import SolveError as SolveError
from learnlag_jax.checks import raise_on_failure as raise_on_failure
from learnlag_jax.vocabulary import Solution as Solution
from learnlag_jax.vocabulary import Status as Status
