"""Gradients, updates and clean weights.

``engine.Engine`` is what a run calls: ``ddp.DDPEngine``, or ``deepspeed.engine.DeepSpeedEngine``,
whose folder alone knows DeepSpeed. Another engine is a class with the same methods.
"""
