"""DeepSpeed's ZeRO. The only folder that knows DeepSpeed."""
