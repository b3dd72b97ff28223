"""GoogLeNet with batch normalisation (Szegedy et al., CVPR 2015), torchvision's, average-pooled: 5.6 M parameters."""

from __future__ import annotations

from typing import cast

from torch import nn

from trainer.backbones import _torchvision
from trainer.backbones._backbone import Backbone, drop_prefixes


def _build(image_size: int) -> nn.Module:
    network = _torchvision.untrained("googlenet", aux_logits=False, init_weights=False)
    network.dropout = network.fc = nn.Identity()  # the dropout is the classifier's
    return cast("nn.Module", network)


BACKBONE = Backbone(
    build=_build,
    pretrained=lambda: _torchvision.published("googlenet"),
    without_classifier=lambda state, image_size: drop_prefixes(state, ("fc.", "aux1.", "aux2.")),
    width=1024,
    # Its weights come from TensorFlow and want -1..1; torchvision gets there by undoing ImageNet's normalisation.
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
)
