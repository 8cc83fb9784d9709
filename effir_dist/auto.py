"""`import effir_dist.auto`: transformers and sentence-transformers then load exported models without remote code."""

from effir_dist.models import auto  # noqa: F401
