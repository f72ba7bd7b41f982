"""Which labels to buy: batches of a pool whose information, with what is labelled already, is best; replanned as the model learns.

    next batch = argmin over n unlabelled rows of phi(prior + sum_labelled f f' + sum_batch f f')

With phi = I and the pool as region this is V-optimal: the mean variance of the predictions on the pool, so no label goes to a
direction that hardly anybody uses. f is x for a linear model, and a Fisher row at the current parameters for logistic and last-layer models: then
learning changes the plan. Goes to: the learning times of `time_to_threshold`. Reference: Yu, Bi and Tresp, Active learning via transductive
experimental design (2006); Chen and Biros, Fisher information for active learning (2023); MATH.md 4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.fermat.basis import orthonormal
from learnlag_jax.fermat.criteria import Criterion, as_criterion, information_matrix, wide_rows
from learnlag_jax.fermat.exact import exchanged, spanning_start
from learnlag_jax.fermat.known import known_information
from learnlag_jax.fermat.planning import greedy_rows
from learnlag_jax.vocabulary import Array, Status, status_where


class LabelBatch(NamedTuple):
    """Rows whose labels to buy next.

    Attributes:
        rows: (n,) int32 distinct unlabelled rows of the pool, increasing; -1 where the information would stay singular.
        value: phi of the information of labelled rows, batch and prior.
        status: int32, a `Status`.

    Example:
        >>> from learnlag_jax.fermat import LabelBatch
        >>> LabelBatch._fields
        ('rows', 'value', 'status')
    """

    rows: Array
    value: Array
    status: Array


def label_batch(
    F, n: int, criterion: str | Callable = "A", *, labelled=(), prior=None, max_sweeps: int = 10
) -> LabelBatch:
    """The n unlabelled rows of a pool to label next: greedy, then exchange until no exchange improves.

        min over distinct unlabelled r_1 .. r_n of phi(prior + sum_labelled f f' + sum_k f_{r_k} f_{r_k}')

    Args:
        F: (N, p) a row for every candidate, labelled or not: covariates, or Fisher rows at the current parameters.
        n: labels to buy.
        criterion: a letter, a `Criterion`, or any convex phi(M); V-optimal is `criterion("I", region=F)`.
        labelled: indices of rows whose labels are known.
        prior: (p, p) information known beforehand, symmetric positive semi-definite, as a ridge penalty over the noise variance; needed while labelled and
            batch together are fewer than p.
        max_sweeps: most passes of exchange; 0 for greedy alone.

    Returns:
        `LabelBatch`. Status `rank_deficient` if labelled rows and batch leave some parameter unknown.

    Raises:
        InputError, DTypeError: n no integer or more than there are unlabelled rows; too few rows without a prior; an index outside
            the pool; NaN in the pool, or a prior that is none (neither is checked while tracing).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import criterion, label_batch
        >>> x = jnp.linspace(-1.0, 1.0, 5)
        >>> F = jnp.stack([jnp.ones_like(x), x], 1)
        >>> [int(i) for i in label_batch(F, 2, criterion("I", region=F)).rows]
        [0, 4]
        >>> [int(i) for i in label_batch(F, 2, criterion("I", region=F), labelled=[0, 4]).rows]
        [1, 3]

    Reference: Yu, Bi and Tresp (2006); MATH.md 4.
    """
    F = wide_rows(F)
    checks.shape(F, ("N", "p"), "F")
    phi = as_criterion(criterion, F.shape[1])
    checks.finite(F, "F")
    (N, p), labelled = F.shape, np.unique(np.asarray(labelled, None if len(labelled) else int))
    whole = np.issubdtype(labelled.dtype, np.integer)
    checks.require(whole, "labelled", labelled.dtype, "integer indices", "turn a mask into numbers with np.flatnonzero")
    inside = not labelled.size or (labelled[0] >= 0 and labelled[-1] < N)
    checks.require(
        inside, "labelled", labelled[[0, -1]] if labelled.size else "", f"indices 0 .. {N - 1}", "use pool rows"
    )
    left = N - len(labelled)
    checks.whole(n, "n", 1, "the number of labels to buy")
    checks.require(n <= left, "n", n, f"1 to {left}, the unlabelled rows", "ask for fewer labels")
    checks.whole(max_sweeps, "max_sweeps", 0, "10 is usual")
    known = len(labelled) + n
    checks.require(prior is not None or known >= p, "n", f"{known} rows with the labelled ones", f"{p}", "pass a prior")
    phi = phi if isinstance(phi, Criterion) else jax.tree_util.Partial(phi)
    taken = jnp.zeros(N, bool).at[labelled].set(True)
    base = jnp.zeros((p, p), F.dtype) if prior is None else known_information(prior, F)
    # raw powers of x would cost the search its digits; labelled rows stay in place, so that no shape grows with them
    own = orthonormal(F, phi, base, jnp.where(taken[:, None], F, 0))
    rows, value = _search(own.F, own.phi, own.prior, n, prior is None, max_sweeps, taken)
    found = jnp.isfinite(value)
    return LabelBatch(jnp.where(found, rows, -1), value, status_where(~found, Status.rank_deficient))


def _search(F: Array, phi: Callable, base: Array, n: int, unknown: bool, max_sweeps: int, taken: Array):
    """Greedy, then exchange."""
    start = greedy_rows(F, phi, _regular_start(F, base) if unknown else base, n, False, taken)
    search = lambda start: exchanged(F, phi, base, start, False, max_sweeps, taken)[:2]
    rows, value = search(start)
    # greedy goes where variance is largest, and may leave a direction unseen that a regular batch would see
    spanning = lambda: search(spanning_start(F, base, jax.random.key(0), n, False, taken))
    return jax.lax.cond(jnp.isfinite(value), lambda: (rows, value), spanning)


def _regular_start(F: Array, base: Array) -> Array:
    """Something to be greedy from: a trifle of the pool's mean information."""
    trifle = 1e-6 if F.dtype == jnp.float64 else 1e-3
    return base + trifle * information_matrix(F) / F.shape[0]


class LabelPath(NamedTuple):
    """Labels in the order they were bought, and the model after every purchase.

    Attributes:
        rows: (n,) rows of the pool in order of purchase.
        counts: (rounds + 1,) labels bought before each model was fitted.
        models: the fitted models, one a count.

    Example:
        >>> from learnlag_jax.fermat import LabelPath
        >>> LabelPath._fields
        ('rows', 'counts', 'models')
    """

    rows: np.ndarray
    counts: np.ndarray
    models: list


def active_learning(
    fit: Callable[[np.ndarray], Any], choose: Callable[[Any, np.ndarray], Any], first, rounds: int
) -> LabelPath:
    """Buy labels in batches, replanning each with what the last one taught.

        model_0 = fit(first);   rows += choose(model_k, rows);   model_{k+1} = fit(rows)

    Args:
        fit: `fit(rows)` -> model: buys the labels of the rows (those it knows already are free) and fits.
        choose: `choose(model, rows)` -> further rows, distinct and new: `label_batch` on the model's Fisher rows, or any rule.
        first: rows of the first batch.
        rounds: purchases after the first.

    Returns:
        `LabelPath`.

    Raises:
        InputError: a rule that buys a label twice; rows that are no integers, or negative, as those of a failed `label_batch` are.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from learnlag_jax.fermat import active_learning, criterion, label_batch
        >>> x = np.linspace(-1.0, 1.0, 9)
        >>> F, y = np.stack([np.ones(9), x], 1), 1 + 2 * x
        >>> fit = lambda rows: np.linalg.lstsq(F[rows], y[rows], rcond=None)[0]
        >>> choose = lambda model, rows: label_batch(F, 2, criterion("I", region=F), labelled=rows).rows
        >>> path = active_learning(fit, choose, [0, 8], rounds=2)
        >>> path.counts.tolist(), [round(float(b), 6) for b in path.models[-1]]
        ([2, 4, 6], [1.0, 2.0])

    Reference: MATH.md 3, 4.
    """
    checks.whole(rounds, "rounds", 0, "the number of purchases after the first")
    rows = _bought(first, "first")
    counts, models = [len(rows)], [fit(rows)]
    for _ in range(rounds):
        rows = np.concatenate([rows, _bought(choose(models[-1], rows), "choose")])
        twice = len(rows) - len(np.unique(rows))
        checks.require(not twice, "choose", f"{twice} rows that are labelled already", "new rows", "exclude `rows`")
        counts, models = [*counts, len(rows)], [*models, fit(rows)]
    return LabelPath(rows, np.array(counts), models)


def _bought(rows, name: str) -> np.ndarray:
    """Rows of the pool: what is not one must not be read as one, and -1 is the last."""
    rows = np.asarray(rows)
    checks.shape(rows, ("n",), name)
    whole = not rows.size or np.issubdtype(rows.dtype, np.integer)
    remedy = "turn a mask into numbers with np.flatnonzero"
    checks.require(whole, name, checks.describe(rows), "integer indices", remedy)
    rows = rows.astype(int)
    least = rows.min(initial=0)
    remedy = "-1 is what a label_batch of status rank_deficient returns: look at its status, or pass it a prior"
    checks.require(least >= 0, name, f"row {least}", "rows of the pool, from 0", remedy)
    return rows


def softmax_rows(logits, features) -> Array:
    """Fisher rows of a softmax classifier's last layer, averaged over its classes.

        f = sqrt((1 - |p|^2) / K) x,    f f' = mean over k of the blocks p_k (1 - p_k) x x' of (diag p - p p') (x) x x'

    One row of the width of x stands for the K p x K p information of one label: uncertain where |p|^2 is small, informative
    where x is new.

    Args:
        logits: (N, K) of the current model on the pool.
        features: (N, p) inputs of the last layer, a constant column included if it has a bias.

    Returns:
        (N, p) rows for `label_batch`.

    Raises:
        InputError, DTypeError: unequal lengths, or dtypes that are not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import softmax_rows
        >>> rows = softmax_rows(jnp.array([[0.0, 0.0], [50.0, 0.0]]), jnp.ones((2, 1)))  # undecided, and certain
        >>> [round(float(r), 4) for r in rows[:, 0]]
        [0.5, 0.0]

    Reference: Chen and Biros (2023); MATH.md 4.
    """
    checks.shape(logits, ("N", "K"), "logits")
    checks.shape(features, (jnp.shape(logits)[0], "p"), "features")
    checks.floating((logits, features), "logits, features")
    logits = jnp.asarray(logits)
    p, K = jax.nn.softmax(logits, -1), logits.shape[1]
    top = jax.nn.one_hot(jnp.argmax(logits, -1), K, dtype=bool)
    rest = jnp.sum(jnp.where(top, 0, p), -1, keepdims=True)  # 1 - p of the likeliest class without its cancellation
    spread = jnp.sum(p * jnp.where(top, rest, 1 - p), -1) / K
    features = jnp.asarray(features)
    return jnp.sqrt(spread).astype(features.dtype)[:, None] * features
