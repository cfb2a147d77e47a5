"""Only what nnUNet_extTrainer needs: nnU-Net imports every module of this folder."""
