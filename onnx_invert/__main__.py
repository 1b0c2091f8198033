"""`python -m onnx_invert`."""

from onnx_invert.cli import main

if __name__ == "__main__":
    main()
