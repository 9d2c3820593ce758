"""What is transcribed: audio files, manifests, and which of their utterances."""
