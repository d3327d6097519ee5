"""Where in the brain a factor lives: voxelwise maps, sensitivity of the encoder, overlap with planted truth."""
