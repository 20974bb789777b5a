"""`python -m ctrt_kernel -f FILE`: start the kernel that a connection file asks for."""

from __future__ import annotations

from ipykernel.kernelapp import IPKernelApp

from ctrt_kernel.kernel import CtrtKernel

if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=CtrtKernel)
