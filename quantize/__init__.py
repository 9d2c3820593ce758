"""From an FP32 bundle to smaller ones: recipes, what they did to every constant, and the pipeline."""
