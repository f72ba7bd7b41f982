"""Compiler options for the few tests that look at the compiled program or at single bits: the emitters that users have.

Tests compile with plainer ones (see conftest) where jaxlib knows them.
"""

import os

AS_USERS = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}
