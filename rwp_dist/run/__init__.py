"""What a run consists of."""
