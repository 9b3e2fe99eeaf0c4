"""Frozen backbones and text encoders, poolings, masking, projection heads, the alignment model.

Import from the submodules: this package stays light, because `models.weights`,
`models.families` and `models.text_families` serve `plan`, which must not import torch.
"""
