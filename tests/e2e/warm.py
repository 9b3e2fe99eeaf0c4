"""What a run imports, for a fork server: a process that is forked from it has all of this at hand.

Most of the CPU of a short run goes into imports, and the fault suite starts more than a hundred.
"""

from vlmvid.models.torchvision_compat import ensure_torchvision

ensure_torchvision()

import mlflow.tracking  # noqa: E402
import transformers.models.llama.modeling_llama  # noqa: E402

import flows.pipeline  # noqa: E402
import vlmvid.cli.recipes  # noqa: E402
import vlmvid.models.backbones.timm_backbone  # noqa: E402
import vlmvid.pipeline.plan  # noqa: E402
import vlmvid.serving.model  # noqa: E402
import vlmvid.tracking.mlflow  # noqa: E402

__all__ = ["flows", "mlflow", "transformers", "vlmvid"]
