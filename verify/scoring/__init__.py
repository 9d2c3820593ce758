"""Numbers from transcripts and logits: error rates, and the divergence along FP32's path."""
