"""From photos to results: the predictor, its compiled programs, and jobs of any size."""
