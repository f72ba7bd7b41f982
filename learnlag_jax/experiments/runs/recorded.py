"""A recorded run as one `.npz` file: numbers only, every array by the path of its leaf, sizes looked at before anything is read."""

import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.experiments.comparison import config
from learnlag_jax.fisher import Run

LIMIT = 1 << 34  # bytes, unpacked


def save(path: Path, run: Run) -> None:
    """Write a run from `fisher.record`; `learnlag audit` reads it.

    Args:
        path: ends in `.npz`.
        run: positions (n + 1, ...), gradients (n, ...), losses (n,).
    """
    named = jax.tree_util.tree_leaves_with_path(run._asdict())
    arrays: dict[str, Any] = {jax.tree_util.keystr(where): np.asarray(leaf) for where, leaf in named}
    np.savez(path, **arrays)


def load(path: Path) -> Run:
    """Read a run; its positions and gradients become dictionaries of leaves.

    Args:
        path: a `.npz` whose arrays are named `positions...`, `gradients...` with the same endings, and perhaps `losses`.

    Raises:
        InputError: not such a file, objects inside, sizes that do not fit, too large, or numbers that are not finite.
    """
    arrays = _arrays(path)
    part = lambda name: {key[len(name) :]: arrays[key] for key in sorted(arrays) if key.startswith(name)}
    positions, gradients = part("positions"), part("gradients")
    refuse = lambda ok, got, expected: checks.require(ok, path.name, got, expected, "write it with recorded.save")
    refuse(positions, f"arrays {sorted(arrays)[:6]}", "arrays positions... and gradients...")
    refuse(positions.keys() == gradients.keys(), f"{sorted(gradients)[:4]}", f"gradients of {sorted(positions)[:4]}")
    n = len(next(iter(gradients.values())))
    for key, q in positions.items():
        wanted = (n + 1, *gradients[key].shape[1:])
        refuse(q.shape == wanted, f"positions{key} {q.shape}", f"{wanted}, one row more than gradients{key}")
    losses = arrays.get("losses", np.zeros(n, np.float32))
    refuse(losses.shape == (n,), f"losses {losses.shape}", f"({n},)")
    checks.finite((positions, gradients), path.name)
    return Run(positions, gradients, jnp.asarray(losses))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    wrong = f"{path.name}: got {{}}; expected a .npz file of numbers; write it with recorded.save"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            checks.require(size <= LIMIT, path.name, f"{size} bytes", f"at most {LIMIT}", "record fewer steps")
        with np.load(path) as file:  # objects are refused by NumPy, unread
            arrays = {_name(key): file[key] for key in file.files}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError) as error:
        if isinstance(error, checks.InputError):
            raise
        raise checks.InputError(wrong.format(f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")) from None
    for key, x in arrays.items():
        x = np.asarray(x)  # an archive may hold anything: other members come as bytes
        ok = x.ndim >= 1 and np.issubdtype(x.dtype, np.floating)
        got = f"{x.dtype}{list(x.shape)}"
        checks.require(
            ok, f"{path.name}: {config.printable(key)}", got, "real arrays with a leading step axis", "cast it"
        )
    return arrays


def _name(key: str) -> str:
    """`['positions']['w']` as `keystr` writes it, or plain `positions`."""
    for word in ("positions", "gradients", "losses"):
        if key.startswith(f"['{word}']"):
            return word + key[len(word) + 4 :]
    return key
