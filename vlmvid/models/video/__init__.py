"""Video encoders that start as an image encoder.

`encoder.build_video_encoder` turns a timm ViT into a `VideoEncoder`; one module per part: `inflation` (2D to 3D
patches), `time_embedding`, `blocks` (frames, joint, divided, temporal shift), `adapters` (ST-Adapter, AIM),
`factorised` (a temporal transformer behind), `dropping` (which tokens stay), `vit` (which image models fit).

The contract of every kind: on a clip that repeats one frame the initial encoder gives, in every time step, the
image encoder's tokens of that frame, up to float32 rounding (relative 1e-5).
"""
