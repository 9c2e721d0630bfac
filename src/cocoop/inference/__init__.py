"""Inference: classify images with a trained prompt, in PyTorch or ONNX, one by one or in bulk."""
