"""What a worker of this machine's own Ray imports before its first work (`connection`): nothing but imports."""

import ray.tune  # noqa: F401
import transformers.modeling_layers
import transformers.models.auto.modeling_auto  # noqa: F401

import effir_dist.search.cluster.worker
import effir_dist.search.trial.preparation
import effir_dist.search.trial.trial  # noqa: F401
