"""The workshop: phantoms, training, ONNX, parity; makes the files that the node consumes."""
