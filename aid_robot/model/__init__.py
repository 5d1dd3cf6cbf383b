"""AID: Stable Video Diffusion adapted to instructions (Xing et al., ICCV 2025)."""
