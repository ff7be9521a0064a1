"""``rwp-dist export``: a run's network as a folder that others load, and that a hub takes as it is.

::

    model.safetensors      the weights of the result
    trained.safetensors    the trained ones, if an average of them is the result
    average.safetensors    the average, if the trained ones are the result
    config.json            what the network is and how images are made ready, in timm's format
    README.md              the model card: how to load it, and how it was trained
    model.onnx             with --onnx

    loading        a plain script that loads it, by the library that has such a network
    networks       weights and buffers of a checkpoint
    hub_config     config.json
    card           README.md
    onnx_model     model.onnx, compared with torch's outputs
    command        the entry
"""
