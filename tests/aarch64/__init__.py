"""Runs the runtime's aarch64 wheels under QEMU and checks every graph for CPUs.

    make aarch64                                        # the floor and the pinned ONNX Runtime
    python -m aarch64 --versions 1.27.0 --cpus max      # others

QEMU runs single programs of another architecture (`qemu-user`), so neither a board nor a virtual
machine is needed. Values are those of the emulated instructions; times mean nothing.

    emulator      QEMU's command, the CPUs that it plays, and how a program ended
    debian_root   a folder with Debian's Python for arm64, made without privileges
    installed     the wheel of lame_runtime and several ONNX Runtimes in that Python
    samples_made  the bundle with all graphs, and inputs of each kind
    graph_checks  the golden vectors, and vectors against those of this machine
"""
