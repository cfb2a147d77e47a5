"""Which patches a network sees: nnU-Net's loader with chosen voxels, and the mining of hard regions."""
