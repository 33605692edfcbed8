"""Export: the networks of a session as ONNX graphs, and the exact tables, for readers without torch."""
