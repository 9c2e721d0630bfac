"""A trained prompt as one ONNX file, for programs without PyTorch."""
