//! The shim: parent of one container's processes, over any OCI runtime's command line.
