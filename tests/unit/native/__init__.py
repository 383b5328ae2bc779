"""Single kernels, on every instruction set of this CPU, against float64."""
