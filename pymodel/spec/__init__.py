"""One declaration of every bit: formats, descriptors, registers, reasons, parameters, observation. Standard
library only.
"""
