"""Strict numerics for every test: both precisions, strict promotion, rank promotion an error, typed keys,
eight fake CPU devices. `JAX_ENABLE_X64=0 python -m pytest` runs the float32 half as a user without x64 would.

Most of a test is compilation of a program that runs for a millisecond, so LLVM's optimisation is off, and XLA's emitters of
fused loops, which want it, with it: a third of the time. The commands that tests start as processes of their own run optimised
code, and so does whoever sets XLA_FLAGS, to nothing too: `XLA_FLAGS= python -m pytest -m slow`.
"""

import gc
import importlib.metadata
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"  # jaxlib after 0.10 has no other emitters, and ends at a flag it does not know
    + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10."),
)
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import jax
import jax.numpy as jnp
import pytest

X64 = os.environ.get("JAX_ENABLE_X64", "1") not in ("0", "false", "False")
STRICT = {
    "jax_enable_x64": X64,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_legacy_prng_key": "error",
    "jax_debug_key_reuse": True,
}
for name, value in STRICT.items():
    jax.config.update(name, value)

hypothesis.settings.register_profile(
    "house",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


@pytest.fixture(params=["float32", "float64"] if X64 else ["float32"])
def dtype(request) -> jnp.dtype:
    """Both precisions; tolerances must follow `jnp.finfo(dtype).eps`."""
    return jnp.dtype(request.param)


@pytest.fixture
def float64() -> jnp.dtype:
    """For tests that need double precision; skipped in a run without x64."""
    if not X64:
        pytest.skip("needs x64")
    return jnp.dtype("float64")


MAPS = Path("/proc/self/maps")
MOST_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def _few_programs_kept():
    """Every compiled program holds a dozen memory maps; Linux grants a process 65,530 and the compiler crashes at the next one."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _configuration_unchanged():
    """The library never sets a JAX flag: what stood before a test stands after it."""
    yield
    for name, value in STRICT.items():
        assert jax.config.values[name] == value, f"{name} was changed"
