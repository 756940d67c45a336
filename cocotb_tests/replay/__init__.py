"""`twodim replay`: a recording of device DMA on the RTL, in lock-step with the golden models."""
