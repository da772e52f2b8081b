//! Docker Engine API wire types, shared by the daemon and the command line. Types only, no I/O.
